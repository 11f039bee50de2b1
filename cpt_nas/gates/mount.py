"""Gates put in place: folded into weights where the layout allows, else multiplied.

A mask is shared by the batch, so multiplying the units' activations equals multiplying the
*consumer's* weight along its input dimension: same output, same gradient, and no activation is kept
twice. That is :class:`Fold`. :class:`Multiply` is the plain form, the reference.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from cpt_nas.gates.bernoulli import BernoulliGate
from cpt_nas.pruning.search_space import PrunableBranch
from cpt_nas.pruning.surgery import join


class _GateUser:
    """Holds a gate without owning it: a copy of the model (an EMA, say) shares the live gate.

    So a copy in eval mode shows *its* weights under the *live* structure, and never a stale one.
    """

    def __init__(self, gate: BernoulliGate, width: int) -> None:
        self.gate = gate
        self.width = width

    def value(self, training: bool) -> Tensor:
        z = self.gate.value(training)
        return z if self.width == 1 else z.repeat_interleave(self.width)

    def __deepcopy__(self, memo: dict[int, Any]) -> _GateUser:
        return self


class Fold(nn.Module):
    """A parametrization: the tensor times the gate along one dimension.

    Args:
        gate: K gates; a gate of size 1 scales the whole tensor.
        dim: the dimension along which unit u owns entries u*width .. (u+1)*width - 1.
        width: entries a unit.
    """

    def __init__(self, gate: BernoulliGate, dim: int = 0, width: int = 1) -> None:
        super().__init__()
        self.user = _GateUser(gate, width)
        self.dim = dim

    def forward(self, tensor: Tensor) -> Tensor:
        z = self.user.value(self.training).to(tensor.dtype)
        shape = [1] * tensor.dim()
        shape[self.dim] = -1
        return tensor * z.view(shape)


class Multiply:
    """A forward hook: the output times the gate along ``dim``; form (a), the reference."""

    def __init__(self, gate: BernoulliGate, dim: int = 1, width: int = 1) -> None:
        self.user = _GateUser(gate, width)
        self.dim = dim

    def __call__(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return self.times(module, output)

    def times(self, module: nn.Module, tensor: Tensor) -> Tensor:
        """The tensor times the gate."""
        z = self.user.value(module.training).to(tensor.dtype)
        shape = [1] * tensor.dim()
        shape[self.dim] = -1
        return tensor * z.view(shape)


class MultiplyInput(Multiply):
    """A forward pre-hook: the same for the module's input."""

    def __call__(self, module: nn.Module, inputs: Any, output: Any = None) -> Any:
        return (self.times(module, inputs[0]), *inputs[1:])


class Sampler:
    """A forward pre-hook of the whole model: a fresh mask for every gate, every training forward.

    One generator on the CPU serves all gates in a fixed order, so ranks that start from the same
    seed draw the same masks, and its state is all that a resumed run needs.
    """

    def __init__(self, gates: nn.ModuleDict, generator: torch.Generator) -> None:
        self.gates = gates
        self.generator = generator

    def __call__(self, module: nn.Module, inputs: object) -> None:
        if module.training and len(self.gates):
            gates = [g for g in self.gates.values() if isinstance(g, BernoulliGate)]
            sizes = [len(g) for g in gates]
            uniform = torch.rand(sum(sizes), generator=self.generator)
            for gate, part in zip(gates, uniform.split(sizes)):
                gate.sample(part)
            if torch.is_grad_enabled():
                for gate in gates:
                    gate.count()

    def __deepcopy__(self, memo: dict[int, Any]) -> Sampler:
        return Sampler(nn.ModuleDict(), torch.Generator())


Handles = list[RemovableHandle]


def mount_units(
    model: nn.Module, found: PrunableBranch, group: str, gate: BernoulliGate, fold: bool
) -> Handles:
    """Put a unit gate in place, folded into its readers or multiplying their inputs."""
    (units,) = [g for g in found.branch.groups if g.name == group]
    if fold:
        for cut in units.folds:
            _parametrize(model, join(found.block, cut.tensor), Fold(gate, cut.dim, cut.width))
        return []
    handles = []
    for cut in units.folds:
        reader = model.get_submodule(join(found.block, cut.tensor.rpartition(".")[0]))
        dim = -1 if isinstance(reader, nn.Linear) else 1
        hook = MultiplyInput(gate, dim, cut.width)
        handles.append(reader.register_forward_pre_hook(hook))
    return handles


def mount_branch(
    model: nn.Module, found: PrunableBranch, gate: BernoulliGate, fold: bool
) -> Handles:
    """Put a branch gate in place."""
    if fold and found.branch.folds:
        for tensor in found.branch.folds:
            _parametrize(model, join(found.block, tensor), Fold(gate))
        return []
    module = model.get_submodule(join(found.block, found.branch.multiply))
    return [module.register_forward_hook(Multiply(gate))]


def _parametrize(model: nn.Module, name: str, fold: Fold) -> None:
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    # unsafe: skips a trial call; the Fold never changes shape or dtype.
    parametrize.register_parametrization(module, attribute, fold, unsafe=True)
    fold.train(module.training)


def unmount(model: nn.Module, handles: Handles) -> None:
    """Take every gate out; the parameters stay the same objects."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            holders: nn.ModuleDict = module.parametrizations  # type: ignore[assignment]
            for name, chain in list(holders.items()):
                assert isinstance(chain, parametrize.ParametrizationList)
                if all(isinstance(p, Fold) for p in chain.children()):
                    parametrize.remove_parametrizations(module, name, leave_parametrized=False)
    for handle in handles:
        handle.remove()
