"""Bernoulli gates, how they are folded into weights, and how their parameters get gradients.

A gate holds ``theta`` in [0, 1], one number a unit (or one for a whole branch). Per mini-batch a
mask ``z ~ Bernoulli(theta)`` is drawn (Algorithm 1 of arXiv 2411.09127) and multiplied onto the
gated structure. The mask is shared by the batch, so multiplying the units' activations equals
multiplying the *consumer's* weight along its input dimension: same output, same gradient, and
no activation is kept twice. That is :class:`Fold`. :class:`Multiply` is the plain form, used as
reference and where a layout does not allow folding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

ENDPOINT_FLOOR = 0.05


def straight_through(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (1, 1) of a sample that is on and of one that is off (eqs. 14-17).

    The estimate's mean is the loss's slope averaged over the states, theta : (1 - theta).
    """
    return torch.ones_like(theta), torch.ones_like(theta)


def endpoint(theta: Tensor, floor: float = ENDPOINT_FLOOR) -> tuple[Tensor, Tensor]:
    """Weights 1/(2 theta) of a sample that is on and 1/(2 (1 - theta)) of one that is off.

    The mean is half the slope at 1 plus half the slope at 0, whatever theta is: the trapezoid
    rule for the true difference C(1) - C(0), exact where C is quadratic in the gate. The floor
    bounds the weight of rare samples (and biases the estimate where it acts).
    """
    return 0.5 / theta.clamp(min=floor), 0.5 / (1.0 - theta).clamp(min=floor)


Estimator = Callable[[Tensor], tuple[Tensor, Tensor]]
ESTIMATORS: dict[str, Estimator] = {"straight_through": straight_through, "endpoint": endpoint}


class BernoulliGate(nn.Module):
    """Independent Bernoulli gates on the units of one group, or on one branch (size 1).

    Attributes:
        theta: [K] probabilities of being on, kept in [0, 1] by :meth:`project`.
        mask: [K] the present sample, 0 or 1.
        index: [K] which units of the uncut group these are.
        charge: [K] what the regularizer charges each gate with everything open, over log gamma.
        side: [K] where each gate moves under a budget: 1 to open, -1 to closed, 0 nowhere.
        memory: [6, K] running sums of the samples that were on and of those that were off: how
            many, their slopes, the slopes' squares.
        branch: for units, the gate of their branch, if it has one.
    """

    theta: nn.Parameter
    mask: Tensor
    index: Tensor
    charge: Tensor
    side: Tensor
    memory: Tensor

    def __init__(self, size: int, *, theta: float = 1.0, estimator: str = "endpoint") -> None:
        super().__init__()
        if estimator not in ESTIMATORS:
            raise ValueError(f"estimator: {estimator!r} is not one of {', '.join(ESTIMATORS)}")
        self.estimator = estimator
        self.theta = nn.Parameter(torch.full((size,), float(theta)))
        self.register_buffer("mask", torch.ones(size), persistent=False)
        self.register_buffer("index", torch.arange(size))
        self.register_buffer("charge", torch.zeros(size))
        self.register_buffer("side", torch.zeros(size))
        self.register_buffer("memory", torch.zeros(6, size))
        self._owner: list[BernoulliGate] = []  # in a list, so that it is no submodule
        self._drawn: Tensor | None = None
        self._samples: list[tuple[Tensor, Tensor]] = []  # masks, and the leaves that stood for them

    def __len__(self) -> int:
        return self.theta.shape[0]

    @property
    def branch(self) -> BernoulliGate | None:
        return self._owner[0] if self._owner else None

    def belongs_to(self, branch: BernoulliGate) -> None:
        """These are units of the branch that ``branch`` gates."""
        self._owner = [branch]

    def sample(self, uniform: Tensor) -> None:
        """Draw the mask from [K] uniform numbers in [0, 1)."""
        self.mask = (uniform.to(self.theta) < self.theta.detach()).to(self.theta.dtype)

    def value(self, training: bool) -> Tensor:
        """The gates' values [K]: in training the sample, else 1[theta > 0.5].

        The loss's slope with respect to the sample is kept until :meth:`remember`.
        """
        if not training:
            return (self.theta.detach() > 0.5).to(self.theta.dtype)
        if not torch.is_grad_enabled():
            return self.mask
        if not self._samples or self._samples[-1][0] is not self.mask:
            self._samples.append((self.mask, self.mask.clone().requires_grad_()))
        return self._samples[-1][1]

    def count(self) -> None:
        """Count the present sample. Units say nothing of themselves while their branch is off."""
        drawn = torch.stack([self.mask, 1.0 - self.mask])
        if self.branch is not None:
            drawn = drawn * self.branch.mask
        self._drawn = drawn if self._drawn is None else self._drawn + drawn

    @torch.no_grad()
    def slopes(self) -> Tensor:
        """[2, K]: sums of the loss's slopes since they were remembered, on and off."""
        slopes = self.theta.new_zeros(2, len(self))
        for mask, leaf in self._samples:
            if leaf.grad is not None:
                slopes += torch.stack([mask, 1.0 - mask]) * leaf.grad
        return slopes

    @torch.no_grad()
    def gradient(self, slopes: Tensor) -> Tensor:
        """The estimated gradient of the loss to theta, [K], of the samples with these slopes."""
        on, off = ESTIMATORS[self.estimator](self.theta.detach())
        return on * slopes[0] + off * slopes[1]

    @torch.no_grad()
    def remember(self, keep: float, slopes: Tensor | None = None) -> None:
        """Add the samples that are new to the memory.

        Args:
            keep: share of the memory that is kept, beside what is new.
            slopes: their slopes; default: :meth:`slopes`.
        """
        if self._drawn is not None:
            # A loss that overflowed (it does under a GradScaler) says nothing.
            new = (self.slopes() if slopes is None else slopes).nan_to_num(0.0, 0.0, 0.0)
            self.memory = keep * self.memory + torch.cat([self._drawn, new, new.square()])
        self._drawn = None
        self._samples = []

    @torch.no_grad()
    def benefit(self) -> tuple[Tensor, Tensor]:
        """How much lower the loss has lately been for each gate being on, and its variance, [K].

        The samples that were on and those that were off are averaged apart and weighed as the
        estimator weighs them. A unit that was never off (or on) is taken to be as the others of
        its group were then; a group that never was is judged by the other state alone. Benefit 0
        where nothing is known.
        """
        counts, sums, squares = self.memory.view(3, 2, -1)
        n, pooled = counts.clamp(min=1e-12), counts.sum(1, keepdim=True)
        seen = counts > 0
        means = torch.where(seen, sums / n, sums.sum(1, keepdim=True) / pooled.clamp(min=1e-12))
        spread = (squares.sum(1) / pooled[:, 0].clamp(min=1e-12))[:, None]
        variances = torch.where(seen, (squares / n - means.square()).clamp(min=0.0), spread)
        if self.estimator == "straight_through":
            on = self.theta.detach()
        else:
            on = torch.full_like(self.theta, 0.5)
        known = pooled[:, 0] > 0
        on = torch.where(known[1], torch.where(known[0], on, 0.0), 1.0)
        share = torch.stack([on, 1.0 - on])
        variance = (share.square() * variances / n.clamp(min=1.0)).sum(0)
        return -(share * means).sum(0), variance

    @torch.no_grad()
    def drift(self, rate: float) -> None:
        """Move theta towards its side."""
        self.theta.add_(self.side, alpha=rate)

    @torch.no_grad()
    def project(self, most: float = 1.0) -> None:
        """Back into [0, most] after a step (eq. 21)."""
        self.theta.clamp_(0.0, most)


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
