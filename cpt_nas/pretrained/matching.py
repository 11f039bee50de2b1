"""Which tensor of a file is which of a network: by name, by timm's conversions, or by order."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

ENOUGH = 0.95
"""Of the network's and of the file's tensors, and of their numbers, that must have met."""
WRAPPERS = ("module.", "_orig_mod.", "model.", "network.", "net.")
"""What wrappers (DDP, torch.compile, Lightning) put before every name."""
COUNTER = "num_batches_tracked"  # which older files lack


@dataclass
class Match:
    """What of a file goes where.

    Attributes:
        how: 'name', 'timm' (names that timm converts for this family) or 'order'.
        tensors: the network's name -> the file's tensor, of its shape.
        names: the network's name -> the file's; where they were matched by order.
        missing: of the network, without its head.
        unexpected: in the file, without its head.
        misshapen: name -> (shape in the file, shape in the network).
        new_head: the head's layers are as they were made: the file has none, or of other classes.
        adapted: first convolutions that were converted to the network's input channels.
        share: how much has met; the lowest of four shares.
    """

    how: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    new_head: bool = False
    adapted: list[str] = field(default_factory=list)
    share: float = 0.0

    @property
    def fits(self) -> bool:
        return not self.misshapen and self.share >= ENOUGH


def best_match(model: nn.Module, state: Mapping[str, Tensor]) -> Match:
    """The first way in which a file's tensors fit, else the best of those by name.

    Args:
        model: uncut, without gates.
        state: the file's tensors, :func:`unwrapped`.
    """
    named = match_names(model, state, "name")
    if named.fits:
        return named
    converted = _converted(model, state)
    if converted is not None:
        again = match_names(model, converted, "timm")
        if again.fits:
            return again
        named = max(named, again, key=lambda m: m.share)
    ordered = match_order(model, state)
    return ordered if ordered is not None and ordered.fits else named


def unwrapped(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The tensors without what wrappers put before their names.

    Raises:
        ValueError: two of them have one name then.
    """
    own = {f"{name}." for name, _ in model.named_children()}
    wrappers = [prefix for prefix in WRAPPERS if prefix not in own]
    bare: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = key
        while prefix := next((p for p in wrappers if name.startswith(p)), None):
            name = name.removeprefix(prefix)
        if name in bare:
            raise ValueError(f"it holds {name} twice, under other prefixes")
        bare[name] = tensor
    return bare


def match_names(model: nn.Module, state: Mapping[str, Tensor], how: str) -> Match:
    """Match tensors that have the same name."""
    own = dict(model.state_dict())
    heads, convs = head_of(model), first_convs(model)
    found = Match(how)
    in_head = [n for n in own if n.startswith(heads)]
    state = _head_renamed(state, own, in_head)
    found.new_head = any(n not in state or not alike(state[n], own[n]) for n in in_head)
    for name, tensor in own.items():
        if name in in_head and found.new_head:
            continue
        theirs = state.get(name)
        if theirs is None:
            if not name.endswith(COUNTER):
                found.missing.append(name)
        elif alike(theirs, tensor):
            found.tensors[name] = theirs
        elif name in convs and (converted := _other_channels(theirs, tensor)) is not None:
            found.tensors[name] = converted
            found.adapted.append(name)
        else:
            found.misshapen[name] = tuple(theirs.shape), tuple(tensor.shape)
    found.unexpected = [
        n for n in state if n not in own and not n.startswith(heads) and not n.endswith(COUNTER)
    ]
    found.share = _share(found, own, state, heads)
    return found


def _head_renamed(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], in_head: list[str]
) -> Mapping[str, Tensor]:
    """The file's tensors, with the network's name for a head that the file calls something else.

    It is the head where it is all that is left over, and its tensors are called alike.
    """
    left = [n for n in state if n not in own and not n.endswith(COUNTER)]
    kinds = [name.rpartition(".")[2] for name in left]
    if not left or any(n in state for n in in_head):
        return state
    if kinds != [name.rpartition(".")[2] for name in in_head]:
        return state
    if any(state[n].dim() != own[m].dim() for n, m in zip(left, in_head, strict=True)):
        return state
    renamed = dict(zip(left, in_head, strict=True))
    return {renamed.get(n, n): tensor for n, tensor in state.items()}


def match_order(model: nn.Module, state: Mapping[str, Tensor]) -> Match | None:
    """Match tensors that stand at the same place; None where kind or shape differ anywhere.

    The same network in two libraries registers its layers in the order in which they run. Each
    tensor must be called the same in its layer ('weight', 'running_mean', ...) and have the same
    shape, the head's apart.
    """
    own = {n: t for n, t in model.state_dict().items() if not n.endswith(COUNTER)}
    theirs = {n: t for n, t in state.items() if not n.endswith(COUNTER)}
    if len(own) != len(theirs):
        return None
    heads = head_of(model)
    renamed, names = {}, {}
    for name, other in zip(own, theirs, strict=True):
        if name.rpartition(".")[2] != other.rpartition(".")[2]:
            return None
        renamed[name], names[name] = theirs[other], other
    found = match_names(model, renamed, "order")
    if any(n.startswith(heads) and renamed[n].dim() != own[n].dim() for n in own):
        return None
    found.names = names
    return found


def alike(theirs: Tensor, own: Tensor) -> bool:
    """Whether one can be copied into the other: shape, kind of number, and stored densely."""
    plain = theirs.layout == torch.strided and not theirs.is_quantized
    kind = theirs.is_floating_point() == own.is_floating_point()
    return plain and kind and theirs.shape == own.shape


def _converted(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The state as timm converts it for the family: older names, resampled position embeddings."""
    convert: Callable[..., dict[str, Tensor]] | None = getattr(
        sys.modules[type(model).__module__], "checkpoint_filter_fn", None
    )
    if convert is None:
        return None
    try:
        return dict(convert(dict(state), model))
    except Exception:  # whatever these functions raise at names that are not their family's
        return None


def _other_channels(theirs: Tensor, own: Tensor) -> Tensor | None:
    """A first convolution for other input channels, as timm adapts it; None where it cannot."""
    if theirs.dim() != 4 or theirs.shape[0] != own.shape[0] or theirs.shape[2:] != own.shape[2:]:
        return None
    try:
        adapted = adapt_input_conv(own.shape[1], theirs)
    except NotImplementedError:
        return None
    return adapted if adapted.shape == own.shape else None


def _share(
    found: Match, own: Mapping[str, Tensor], state: Mapping[str, Tensor], heads: tuple[str, ...]
) -> float:
    """The lowest of the four shares, of tensors and of numbers, of network and of file."""

    def counted(names: Iterable[str], of: Mapping[str, Tensor]) -> tuple[int, int]:
        body = [n for n in names if not n.startswith(heads) and not n.endswith(COUNTER)]
        return len(body), sum(of[n].numel() for n in body)

    shares = []
    for of in (own, state):
        met, whole = counted([n for n in of if n in found.tensors], of), counted(of, of)
        shares += [m / w if w else 0.0 for m, w in zip(met, whole, strict=True)]
    return min(shares)


def head_of(model: nn.Module) -> tuple[str, ...]:
    """What the names of the head's tensors begin with; timm calls it the classifier."""
    return tuple(f"{name}." for name in _config_names(model, "classifier")) or ("\0",)


def first_convs(model: nn.Module) -> set[str]:
    """The weights that read the input."""
    return {f"{name}.weight" for name in _config_names(model, "first_conv")}


def _config_names(model: nn.Module, key: str) -> tuple[str, ...]:
    config = getattr(model, "pretrained_cfg", None) or {}
    entry = config.get(key)
    return tuple(entry) if isinstance(entry, list | tuple) else (entry,) if entry else ()
