"""Giving a network the weights of a file: whole, or not at all, and said in a line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from cpt_nas.pretrained.matching import Match, best_match, first_convs, unwrapped
from cpt_nas.pretrained.reading import read_weights
from cpt_nas.pretrained.reference import agrees, reference_of
from cpt_nas.pruning.export import refuse_not_finite
from hwprofiles.messages import naming

SHOWN = 2  # names in a line


@dataclass(frozen=True)
class LoadedWeights:
    """Where a network's weights are from.

    Attributes:
        source: the file's name, or timm's name of the weights.
        sha256: of the file; '' for timm's weights.
        entry: of the checkpoint, such as 'state_dict_ema'; '' where it holds nothing else.
        matched: 'name', 'timm' (names that timm converts for the family) or 'order'.
        verified_by: the network that gave the same outputs; '' where none was at hand or needed.
        loaded: tensors of the network, the head apart, that have a weight of the file.
        total: tensors of the network, the head apart.
        missing: names of the network that the file lacks.
        unexpected: names of the file that the network lacks.
        adapted: first convolutions that were converted to the network's input channels.
        new_head: the head is as it was made: the file has none, or one of other classes.
    """

    source: str
    sha256: str = ""
    entry: str = ""
    matched: str = "name"
    verified_by: str = ""
    loaded: int = 0
    total: int = 0
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    new_head: bool = False

    def line(self) -> str:
        """What was loaded, missing and unexpected, in one line."""
        parts = [f"weights of {self.source}"]
        if self.total:
            entry = f" of its {self.entry}" if self.entry else ""
            how = {
                "name": "by name",
                "timm": "by names that timm converts",
                "order": "by order and shape, "
                + (
                    f"verified: the same outputs as {self.verified_by}"
                    if self.verified_by
                    else "not verified, as no reference is at hand"
                ),
            }[self.matched]
            parts.append(f"{self.loaded} of {self.total} tensors{entry}, {how}")
            for what, names in (("missing", self.missing), ("unexpected", self.unexpected)):
                parts.append(f"{what} {_some(names)}")
        if self.adapted:
            parts.append(f"{', '.join(self.adapted)} converted to the images' channels")
        parts.append("the head is new" if self.new_head else "the head is theirs")
        return "; ".join(parts)


def _some(names: list[str]) -> str:
    if not names:
        return "none"
    return f"{len(names)} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"


def load_weights(model: nn.Module, file: str | Path, *, field: str = "checkpoint") -> LoadedWeights:
    """Give an uncut timm model the weights of a file, its head only if the classes are as many.

    Names may be timm's, those that timm converts for the family, or those of another library whose
    layers stand in the same order; where torchvision has the network, its outputs are compared.

    Args:
        model: as ``timm.create_model`` makes it, without gates.
        file: safetensors, or what ``torch.save`` wrote of tensors and plain data.
        field: of the setting that names the file, for errors.

    Raises:
        ValueError: the file is missing, damaged, wants code to be run, holds values that are not
            finite, or fits badly; one line, and the model is as it was.
    """
    stored = read_weights(file, field=field)
    where = f"{field}: {stored.file}"
    with naming(where):
        state = unwrapped(stored.tensors, model)
    found = best_match(model, state)
    config = getattr(model, "pretrained_cfg", None) or {}
    architecture = config.get("architecture") or type(model).__name__
    if not found.fits:
        raise ValueError(f"{where} does not fit {architecture}: {_misfit(found, model)}")
    with naming(where):
        refuse_not_finite(found.tensors)
    verified_by = _verified(found, model, state, architecture, where)
    own = model.state_dict()
    with torch.no_grad():
        for name, tensor in found.tensors.items():
            own[name].copy_(tensor)
    return LoadedWeights(
        source=stored.file.name,
        sha256=stored.sha256,
        entry=stored.entry,
        matched=found.how,
        verified_by=verified_by,
        loaded=len(found.tensors),
        total=len(found.tensors) + len(found.missing),
        missing=found.missing,
        unexpected=found.unexpected,
        adapted=found.adapted,
        new_head=found.new_head,
    )


def _misfit(found: Match, model: nn.Module) -> str:
    """What is wrong, in a few words."""
    said = []
    if found.misshapen:
        name, (theirs, own) = next(iter(found.misshapen.items()))
        many = f"of another shape {len(found.misshapen)}"
        said.append(f"{many} ({name} is {theirs}, here {own})")
    for what, names in (("missing", found.missing), ("unexpected", found.unexpected)):
        if names:
            said.append(f"{what} {_some(names)}")
    if found.misshapen and len(said) == 1:
        why = "number of input channels" if name in first_convs(model) else "input size"
        said.append(f"all names are right, so it is of another {why} or other arguments")
    return "; ".join(said)


def _verified(
    found: Match, model: nn.Module, state: Mapping[str, Tensor], architecture: str, where: str
) -> str:
    """The network that gave the same outputs as the model under weights matched by order."""
    if found.how != "order":
        return ""
    reference = reference_of(architecture, state)
    if reference is None:
        return ""
    whole = {n: state[other] for n, other in found.names.items()} | found.tensors
    name = f"torchvision's {type(reference).__name__}"
    if not agrees(reference, model, whole, exactly=not found.adapted):
        raise ValueError(
            f"{where} has the names of {name}, which gives other outputs with these weights than"
            f" {architecture}: another epsilon, padding or activation in model.kwargs"
        )
    return name
