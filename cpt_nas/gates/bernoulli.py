"""Bernoulli gates, and how their parameters get gradients.

A gate holds ``theta`` in [0, 1], one number a unit (or one for a whole branch). Per mini-batch a
mask ``z ~ Bernoulli(theta)`` is drawn (Algorithm 1 of arXiv 2411.09127) and multiplied onto the
gated structure; see :mod:`cpt_nas.gates.mount`.
"""

from __future__ import annotations

from collections.abc import Callable

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
        memory: [6, K] running sums of the samples that were on and of those that were off: how
            many, their slopes, the slopes' squares.
        branch: for units, the gate of their branch, if it has one.
    """

    theta: nn.Parameter
    mask: Tensor
    index: Tensor
    memory: Tensor

    def __init__(self, size: int, *, theta: float = 1.0, estimator: str = "endpoint") -> None:
        super().__init__()
        if estimator not in ESTIMATORS:
            raise ValueError(f"estimator: {estimator!r} is not one of {', '.join(ESTIMATORS)}")
        self.estimator = estimator
        self.theta = nn.Parameter(torch.full((size,), float(theta)))
        self.register_buffer("mask", torch.ones(size), persistent=False)
        self.register_buffer("index", torch.arange(size))
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

    @property
    def is_read(self) -> bool:
        """Whether a differentiable forward pass has used a sample since they were remembered."""
        return bool(self._samples)

    @property
    def has_slopes(self) -> bool:
        """Whether a backward pass has reached a sample since they were remembered."""
        return any(leaf.grad is not None for _, leaf in self._samples)

    def slopes(self) -> Tensor:
        """[2, K]: sums of the loss's slopes since they were remembered, on and off."""
        return self._slopes().sum(0)

    @torch.no_grad()
    def _slopes(self) -> Tensor:
        """[samples, 2, K]: the loss's slopes at every sample since they were remembered."""
        slopes = [
            torch.stack([mask, 1.0 - mask]) * leaf.grad
            for mask, leaf in self._samples
            if leaf.grad is not None
        ]
        return torch.stack(slopes) if slopes else self.theta.new_zeros(1, 2, len(self))

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
            slopes: [2, K] where there is one sample, shared by all processes; default: their own.
        """
        if self._drawn is not None:
            new = self._slopes() if slopes is None else slopes[None]
            sums, squares = new.sum(0), new.square().sum(0)
            self.memory = keep * self.memory + torch.cat([self._drawn, sums, squares])
        self.forget()

    def forget(self) -> None:
        """Drop the samples that are new, and what the loss said of them."""
        self._drawn = None
        self._samples = []

    @torch.no_grad()
    def importance(self) -> tuple[Tensor, Tensor]:
        """How much lower the loss has lately been for each gate being on, and its variance, [K].

        The samples that were on and those that were off are averaged apart and weighed as the
        estimator weighs them. A unit that was never off (or on) is taken to be as the others of
        its group were then; a group that never was is judged by the other state alone. Importance 0
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
    def move(self, direction: Tensor, rate: float) -> None:
        """Move theta by ``rate`` in ``direction`` [K]: 1 to open, -1 to closed, 0 nowhere."""
        self.theta.add_(direction, alpha=rate)

    @torch.no_grad()
    def project(self, most: float = 1.0) -> None:
        """Back into [0, most] after a step (eq. 21)."""
        self.theta.clamp_(0.0, most)
