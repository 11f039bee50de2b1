"""Gates put in place: folded into weights where the layout allows, else multiplied.

A mask is shared by the batch, so multiplying the units' activations equals multiplying the
*consumer's* weight along its input dimension: same output, same gradient, and no activation is kept
twice. That is :class:`Folds`. :class:`Multiply` is the plain form, the reference.

Both are forward hooks: between two calls a module is as it was, with its own parameters, class and
names. A copy of the model takes along what its gates said when it was made (:class:`Decided`), and
stands on its own from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from cpt_nas.gates.bernoulli import BernoulliGate
from cpt_nas.pruning.search_space import PrunableBranch
from cpt_nas.pruning.surgery import join


class Decided:
    """Where a copy of the model reads a gate: the values of the moment at which it was made.

    Args:
        decided: [K] 0 or 1.
    """

    def __init__(self, decided: Tensor) -> None:
        self.decided = decided

    def value(self) -> Tensor:
        """The gate's values [K]."""
        return self.decided


class Followed:
    """Where an averaged copy reads a gate: its present decision, 1[theta > 0.5].

    So the copy shows *its* weights under the structure that the search now has.
    """

    def __init__(self, gate: BernoulliGate) -> None:
        self.gate = gate

    def value(self) -> Tensor:
        """The gate's values [K]."""
        return self.gate.value(False)

    def __reduce__(self) -> tuple[type[Decided], tuple[Tensor]]:
        return Decided, (self.gate.value(False).clone(),)


class Live(Followed):
    """Where the searched model reads a gate: in training the sample, else the decision.

    It is the whole model's mode that counts: a norm whose statistics are frozen is in eval mode
    while the model trains.
    """

    def __init__(self, gate: BernoulliGate, model: nn.Module) -> None:
        super().__init__(gate)
        self.model = model

    def value(self) -> Tensor:
        return self.gate.value(self.model.training)


Source = Decided | Followed
"""Where a hook reads its gate's values."""


@dataclass(frozen=True)
class Scale:
    """A tensor times a gate along one dimension.

    Attributes:
        source: of K values; a single one scales the whole tensor.
        dim: the dimension along which unit u owns entries u*width .. (u+1)*width - 1.
        width: entries a unit.
    """

    source: Source
    dim: int = 0
    width: int = 1

    def __call__(self, tensor: Tensor) -> Tensor:
        z = self.source.value()
        z = z if self.width == 1 else z.repeat_interleave(self.width)
        shape = [1] * tensor.dim()
        shape[self.dim] = -1
        return tensor * z.to(tensor).view(shape)


class Folds:
    """Hooks of one module: during a call, gated tensors stand in front of its parameters."""

    def __init__(self) -> None:
        self.scales: list[tuple[str, Scale]] = []

    def before(self, module: nn.Module, inputs: object) -> None:
        """A forward pre-hook: an instance's attribute hides the parameter of its name."""
        gated: dict[str, Tensor] = {}
        for name, scale in self.scales:
            gated[name] = scale(gated.get(name, module._parameters[name]))  # type: ignore[arg-type]
        module.__dict__.update(gated)

    def after(self, module: nn.Module, inputs: object, output: object) -> None:
        """A forward hook, called after an error as well: the parameters are to be seen again."""
        for name, _ in self.scales:
            module.__dict__.pop(name, None)


class Multiply:
    """A forward hook: the output times the gate; form (a), the reference."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale

    def __call__(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return self.scale(output)


class MultiplyInput(Multiply):
    """A forward pre-hook: the same for the module's input."""

    def __call__(self, module: nn.Module, inputs: Any, output: Any = None) -> Any:
        return (self.scale(inputs[0]), *inputs[1:])


class Sampler:
    """A forward pre-hook of the whole model: a fresh mask for every gate, every optimizer step.

    All forward passes of a step share it. So the step of accumulated mini-batches is that of one
    large batch, and what gradient checkpointing computes again is what was computed before.

    One generator on the CPU serves all gates in a fixed order, so ranks that start from the same
    seed draw the same masks, and its state is all that a resumed run needs.

    Attributes:
        is_used: there was a forward pass in training.
        is_drawn: the present step has its mask.
    """

    def __init__(self, gates: nn.ModuleDict, generator: torch.Generator) -> None:
        self.gates = gates
        self.generator = generator
        self.is_used = False
        self.is_drawn = self._counted = False

    def renew(self) -> None:
        """The next forward pass draws a mask."""
        self.is_drawn = self._counted = False

    def __call__(self, module: nn.Module, inputs: object) -> None:
        gates = [g for g in self.gates.values() if isinstance(g, BernoulliGate)]
        if not module.training or not gates:
            return
        check_wrapper(module)
        if not self.is_drawn:
            sizes = [len(g) for g in gates]
            uniform = torch.rand(sum(sizes), generator=self.generator)
            for gate, part in zip(gates, uniform.split(sizes)):
                gate.sample(part)
            self.is_drawn = self.is_used = True
        if torch.is_grad_enabled() and not self._counted:
            for gate in gates:
                gate.count()
            self._counted = True

    def __reduce__(self) -> tuple[type[Sampler], tuple[Any, ...]]:
        return Sampler, (nn.ModuleDict(), None)  # a copy draws nothing


def check_wrapper(model: nn.Module) -> None:
    """Whether DistributedDataParallel, where it runs the model, knows its parameters.

    Raises:
        ValueError: it was wrapped before a cut; torch would wait for gradients of what has gone.
    """
    wrapper = getattr(nn.parallel.DistributedDataParallel, "_active_ddp_module", None)
    if wrapper is None or all(inner is not model for inner in wrapper.modules()):
        return
    known = {id(p) for p in wrapper._module_parameters}
    if any(p.requires_grad and id(p) not in known for p in model.parameters()):
        raise ValueError(
            "model: it was cut after it was wrapped in DistributedDataParallel; wrap it anew "
            "whenever search.step() returns True"
        )


Handles = list[RemovableHandle]


class Mounting:
    """Puts gates into one model.

    Args:
        model: the searched model, or a copy of it.
        source: gate -> where the model's hooks read it.

    Attributes:
        handles: of all hooks so far.
    """

    def __init__(self, model: nn.Module, source: Callable[[BernoulliGate], Source]) -> None:
        self.model, self.source = model, source
        self.handles: Handles = []
        self._folds: dict[nn.Module, Folds] = {}

    def units(self, found: PrunableBranch, group: str, gate: BernoulliGate, fold: bool) -> None:
        """Put a unit gate in place, folded into its readers or multiplying their inputs."""
        (units,) = [g for g in found.branch.groups if g.name == group]
        source = self.source(gate)
        for cut in units.folds:
            if fold:
                self._fold(join(found.block, cut.tensor), Scale(source, cut.dim, cut.width))
                continue
            reader = self.model.get_submodule(join(found.block, cut.tensor.rpartition(".")[0]))
            dim = -1 if isinstance(reader, nn.Linear) else 1
            hook = MultiplyInput(Scale(source, dim, cut.width))
            self.handles.append(reader.register_forward_pre_hook(hook))

    def branch(self, found: PrunableBranch, gate: BernoulliGate, fold: bool) -> None:
        """Put a branch gate in place."""
        source = self.source(gate)
        if fold and found.branch.folds:
            for tensor in found.branch.folds:
                self._fold(join(found.block, tensor), Scale(source))
            return
        module = self.model.get_submodule(join(found.block, found.branch.multiply))
        self.handles.append(module.register_forward_hook(Multiply(Scale(source, 1))))

    def _fold(self, name: str, scale: Scale) -> None:
        path, _, attribute = name.rpartition(".")
        module = self.model.get_submodule(path)
        if attribute not in module._parameters:
            raise ValueError(
                f"model: {name} is computed, not a parameter (weight_norm and the like); "
                "take that away before attach, or exclude its branch"
            )
        if module not in self._folds:
            folds = self._folds[module] = Folds()
            self.handles.append(module.register_forward_pre_hook(folds.before))
            self.handles.append(module.register_forward_hook(folds.after, always_call=True))
        self._folds[module].scales.append((attribute, scale))


def _hooks(model: nn.Module) -> Iterator[tuple[nn.Module, int]]:
    """Every gate's hook in a model: (the module that it is of, its key)."""
    for module in model.modules():
        for key, hook in [*module._forward_pre_hooks.items(), *module._forward_hooks.items()]:
            if isinstance(getattr(hook, "__self__", hook), Folds | Multiply | Sampler):
                yield module, key


def is_gated(model: nn.Module) -> bool:
    """Whether gates are in it, those of a copy included."""
    return any(True for _ in _hooks(model))


def strip(model: nn.Module) -> None:
    """Take out the gates that a copy has brought along."""
    for module, key in _hooks(model):
        module._forward_pre_hooks.pop(key, None)
        module._forward_hooks.pop(key, None)
        module._forward_hooks_always_called.pop(key, None)
