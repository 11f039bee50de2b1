"""The name under which timm finds a network that was cut: ``cpt_pruned``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import timm
from safetensors import SafetensorError
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from cpt_nas.models.cifar_resnet import cifar_cfg
from cpt_nas.pruning.arguments import refuse_loading
from cpt_nas.pruning.export import PREPROCESSING, checksum_of, refuse_not_finite
from cpt_nas.pruning.structure import cut_to, load_structure

__all__ = ["cpt_pruned"]

default_cfgs = generate_default_cfgs({"cpt_pruned.untrained": cifar_cfg()})


_FROM_TIMM = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "pretrained_model_args")
"""What timm's factory hands on beside the arguments."""
_ORIGIN = ("source", "file", "hf_hub_id", "num_classes")
"""What timm itself notes of a folder."""
_IN_A_FOLDER = {"base", "structure", "checksum"}
"""All arguments that an exported folder may hold."""


@register_model
def cpt_pruned(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """A network cut to a structure; what an exported folder names as its architecture.

    Keyword arguments: ``base``, timm's name of the uncut network; ``structure``, a mapping or a
    JSON file (:mod:`cpt_nas.pruning.structure`); the rest goes to ``base``, over what the structure
    says of it. The class is base's own.

    Raises:
        ValueError: a structure that is not one, or of another network; an argument that says where
            weights come from; weights that do not fit or are not finite.
    """
    strange = (kwargs.get("pretrained_model_args") or {}).keys() - _IN_A_FOLDER
    if strange:
        raise ValueError(f"config.json: model_args: {sorted(strange)[0]!r} is not allowed")
    if "pretrained_model_args" in kwargs and not isinstance(kwargs.get("structure"), dict):
        raise ValueError("config.json: model_args.structure: must be a mapping")
    checksum = kwargs.pop("checksum", None)
    if "pretrained_model_args" in kwargs and not isinstance(checksum, str):
        raise ValueError("config.json: model_args.checksum: is missing")
    factory = {key: kwargs.pop(key) for key in _FROM_TIMM if key in kwargs}
    refuse_loading("cpt_pruned", kwargs)
    if missing := [key for key in ("base", "structure") if key not in kwargs]:
        raise ValueError(f"cpt_pruned: {missing[0]} is missing")
    base, structure = kwargs.pop("base"), load_structure(kwargs.pop("structure"))
    if base != structure.architecture:
        raise ValueError(f"base: {base!r}, but the structure is of {structure.architecture!r}")
    structure.require_rebuildable()
    stored = _defaults(base) | structure.model_kwargs
    _check_config(factory.get("pretrained_cfg"), base, stored)
    arguments = stored | kwargs
    wrapping = {k: arguments.pop(k) for k in ("out_indices", "feature_cls") if k in arguments}

    def build(**given: Any) -> nn.Module:
        return cut_to(timm.create_model(base, **given), structure)

    def fit(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        adapted = fitted(state, model, stored, arguments)
        if checksum is not None and checksum != checksum_of(structure, state):
            raise ValueError(
                "config.json: model_args.checksum: structure and weights are not those that were "
                "exported together; export them anew (cpt_nas.export)"
            )
        return adapted

    feature_cfg: dict[str, Any] = {}
    if arguments.get("features_only"):  # timm takes five stages for granted
        plain = {key: value for key, value in arguments.items() if key != "features_only"}
        uncut = timm.create_model(base, **plain)
        feature_cfg["out_indices"] = tuple(range(len(uncut.feature_info)))
        feature_cfg["feature_cls"] = "getter"
    try:
        return build_model_with_cfg(
            build,
            "cpt_pruned",
            pretrained,
            feature_cfg=feature_cfg,
            pretrained_filter_fn=fit,
            **factory,
            **arguments,
            **wrapping,
        )
    except (RuntimeError, SafetensorError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"cpt_pruned: {base}: {said}") from error


def _check_config(config: Any, base: str, stored: Mapping[str, Any]) -> None:
    """Whether a folder's pretrained_cfg says what :func:`cpt_nas.export` writes, and no more."""
    if not isinstance(config, dict) or config.get("source") not in ("local-dir", "hf-hub"):
        return
    known = timm.get_pretrained_cfg(base)
    for key, value in config.items():
        if key not in (*PREPROCESSING, *_ORIGIN):
            raise ValueError(f"config.json: pretrained_cfg: {key!r} is not allowed")
        wanted = stored.get(key) if key == "num_classes" else value
        if key in ("first_conv", "classifier") and known is not None:
            wanted = getattr(known, key)
        if wanted is not None and value != wanted and _names(value) != _names(wanted):
            raise ValueError(f"config.json: pretrained_cfg: {key} is {value!r}, not {wanted!r}")


def _defaults(base: str) -> dict[str, Any]:
    """What timm takes for granted of a network: otherwise it would be cpt_pruned's that count."""
    config = timm.get_pretrained_cfg(base)
    if config is None:
        return {}
    values = {"num_classes": config.num_classes, "in_chans": config.input_size[0]}
    if config.num_classes < 0:
        del values["num_classes"]
    if config.fixed_input_size:
        values["img_size"] = config.input_size[-2:]
    return values


def fitted(
    state: dict[str, Tensor],
    model: nn.Module,
    stored: Mapping[str, Any],
    asked: Mapping[str, Any],
) -> dict[str, Tensor]:
    """Weights of a folder for the network that is asked for, of another input size, say.

    Position embeddings and tables are resampled as timm does it for the family; timm itself adapts
    the first convolution and leaves out a classifier of other classes afterwards.

    Args:
        state: as exported.
        model: the cut network that is to take them.
        stored: the arguments of the exported network.
        asked: those of the model.

    Raises:
        ValueError: weights that are not finite, are missing, or do not fit.
    """
    refuse_not_finite(state)
    own = model.state_dict()
    free = _free_to_differ(model, state, stored, asked)
    if any(k not in own or own[k].shape != t.shape for k, t in state.items() if k not in free):
        resample = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
        state = resample(state, model) if resample is not None else state
    for name in sorted(own.keys() | state.keys()):
        here = tuple(state[name].shape) if name in state else "missing"
        there = tuple(own[name].shape) if name in own else "not part of it"
        if here != there and name not in free:
            raise ValueError(f"weights: {name} is {here}; in the network asked for it is {there}")
    return state


def _free_to_differ(
    model: nn.Module,
    state: Mapping[str, Tensor],
    stored: Mapping[str, Any],
    asked: Mapping[str, Any],
) -> set[str]:
    """The tensors that timm adapts, or leaves out, itself."""
    config: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    free: set[str] = set()
    if asked.get("num_classes") != stored.get("num_classes"):
        heads = tuple(f"{name}." for name in _names(config.get("classifier")))
        own = model.state_dict()
        free = {n for n in {*own, *state} if n.startswith(heads)} | (state.keys() - own.keys())
    if asked.get("in_chans") != stored.get("in_chans"):
        for name in _names(config.get("first_conv")):
            weight = f"{name}.weight"
            if weight in state and state[weight].dim() == 4:
                free.add(weight)
    return free


def _names(entry: object) -> tuple[object, ...]:
    return tuple(entry) if isinstance(entry, list | tuple) else (entry,) if entry else ()
