"""Which branches are not what their adapter takes them for, and why.

An adapter reads a block's class. Here its modules are looked at: what is in them that may compute
something else, and what they share with other parts of the model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from cpt_nas.adapters import REGISTRY, Branch
from cpt_nas.adapters.known import unlike_its_class, unlike_their_classes
from cpt_nas.pruning.surgery import join


def refused_block(module: nn.Module, is_root: bool) -> str:
    """Why a module that its class, or the class it derives from, has an adapter is not gated.

    Args:
        is_root: it is the model itself. Its hooks see the input and the output alone.
    """
    cls = type(module)
    bases = [
        base for base in cls.__mro__ if base in REGISTRY.adapters and base is not nn.Sequential
    ]
    if not bases and REGISTRY.get(module) is None:
        return ""
    reason = unlike_its_class(module, hooks=not is_root)
    if not reason and bases and bases[0] is not cls:
        reason = f"{cls.__name__}, a subclass of {bases[0].__name__}, may compute something else"
    return reason


def refused_branches(block: nn.Module, branches: Sequence[Branch]) -> dict[str, str]:
    """Branch name -> why it is not gated: a module of it is not exactly what its class says.

    What lies outside all branches, a shortcut or the activation behind the addition, belongs to
    each that can be removed.
    """
    refused: dict[str, str] = {}
    changed = list(unlike_their_classes(block)) if any(_modules(b) for b in branches) else []
    for name, reason in changed:
        holders = [b for b in branches if _holds(_modules(b), name)]
        for branch in holders or [b for b in branches if b.remove is not None]:
            refused.setdefault(branch.name, f"{name}: {reason}")
    return refused


def _modules(branch: Branch) -> list[str]:
    """The modules, relative to the block, that the branch's gates take for what they are."""
    if branch.layers:
        return [layer for layer in branch.layers if ":" not in layer]
    tensors = [s.tensor for group in branch.groups for s in group.slices]
    layers = [n for g in branch.groups for n in (*g.produced_by, *g.consumed_by) if ":" not in n]
    return [*(t.rpartition(".")[0] for t in tensors), *layers]


def _holds(prefixes: Iterable[str], name: str) -> bool:
    return any(name == p or name.startswith(p + ".") for p in prefixes)


class Sharing:
    """The parameters of a model that have several names, and the modules that have several places.

    Raises:
        ValueError: a parameter of a lazy layer has no shape yet.

    Attributes:
        names: the name of such a parameter -> all its names.
        places: the path of such a module -> all its paths.
    """

    def __init__(self, model: nn.Module) -> None:
        tensors: dict[object, list[str]] = defaultdict(list)
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if isinstance(parameter, UninitializedParameter):
                raise ValueError(f"model: {name} has no shape yet; run the model once before")
            tensors[_memory(parameter)].append(name)
        for name, buffer in model.named_buffers(remove_duplicate=False):
            tensors[id(buffer)].append(name)
        modules: dict[int, list[str]] = defaultdict(list)
        for path, module in model.named_modules(remove_duplicate=False):
            modules[id(module)].append(path)
        self.names = {n: names for names in tensors.values() if len(names) > 1 for n in names}
        self.places = {p: paths for paths in modules.values() if len(paths) > 1 for p in paths}

    def of_branch(self, block: str, branch: Branch) -> str:
        """Why a branch of the block at that path is not gated; '' where a cut of it is its own.

        A module that stands in several places is cut in all of them alike, as long as all that is
        cut lies in it. It cannot go from one of them.
        """
        tensors = {s.tensor for group in branch.groups for s in group.slices}
        inside = [join(block, n) for n in (*_modules(branch), *tensors, *branch.folds)]
        places = self.places.get(block, [block])
        if branch.remove is not None and len(places) > 1:
            return f"it is {' and '.join(places[:2])}, and cannot go from one of them"
        for name, names in self.names.items():
            if _holds(inside, name):
                suffix = name[len(block) :]
                others = [other for other in names if other not in {p + suffix for p in places}]
                if others:
                    return f"{name} is {others[0]} as well: a cut of one would be one of both"
        return ""


def _memory(tensor: Tensor) -> object:
    """What is the same for two parameters that hold the same numbers; meta tensors hold none."""
    return id(tensor) if tensor.is_meta else tensor.untyped_storage().data_ptr()


def silent_about(block: nn.Module, branch: Branch) -> str:
    """Why a branch has no unit groups, where its adapter gives no reason.

    Names the modules inside whose class nobody here knows from the inside.
    """
    inner = {
        name: type(part).__name__
        for name in _modules(branch)
        if (part := _submodule(block, name)) is not None
        and type(part) not in REGISTRY.adapters
        and any(p.dim() > 1 for child in part.children() for p in child.parameters())
    }
    known = [f"{name}: {cls} has no adapter, so its units stay" for name, cls in inner.items()]
    return "; ".join(known) or "no layer in it is read by one other layer alone"


def _submodule(block: nn.Module, name: str) -> nn.Module | None:
    try:
        return block.get_submodule(name)
    except AttributeError:  # a parameter, or None
        return None
