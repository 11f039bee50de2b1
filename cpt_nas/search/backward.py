"""What the backward passes of a step have told the gates, in the loss's own scale.

A loss may be multiplied before it is differentiated: a GradScaler does, and so does who sums the
losses of several mini-batches. The penalty holds a zero whose gradient is that factor
(:class:`LossScale`), and slopes are divided by it. A step whose slopes are not finite tells nothing
and is none: the optimizer's was skipped, or the weights are lost.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from cpt_nas.gates.gated_model import GatedModel
from cpt_nas.search import importance

SCALED = 2.0  # a loss multiplied by this or more may have a GradScaler, which skips steps


class LossScale:
    """What the loss was multiplied by before it was differentiated.

    Args:
        device: of the loss.
    """

    def __init__(self, device: torch.device) -> None:
        self._zero = torch.zeros((), device=device, requires_grad=True)

    def marked(self, penalty: Tensor) -> Tensor:
        """The same value, by which the scale is found out."""
        return penalty + self._zero

    def take(self) -> float | None:
        """The factor since it was last taken; None where no marked penalty was differentiated."""
        grad, self._zero.grad = self._zero.grad, None
        return None if grad is None else float(grad)


def read(
    gated: GatedModel,
    loss_scale: LossScale,
    optimizers: Iterable[torch.optim.Optimizer],
    charged: bool,
) -> list[Tensor] | None:
    """The loss's slopes, [2, K] a gate; every theta's gradient is brought to the same scale.

    Args:
        optimizers: of the weights.
        charged: theta follows the penalty's gradient.

    Returns:
        None where something is not finite: the step is none.

    Raises:
        ValueError: the step's forward or backward pass has left out the gates or the penalty.
    """
    _check_read(gated)
    gates, scale = gated.all_gates(), loss_scale.take()
    if gates and charged and scale is None:
        raise ValueError(
            "step: the penalty has no part in the loss; add search.penalty() before backward()"
        )
    scale = scale or 1.0
    slopes = [s / scale for s in importance.shared_slopes(gates)]
    parts = [s.flatten() for s in slopes]
    for gate in gates:
        if gate.theta.grad is not None:
            gate.theta.grad = gate.theta.grad.detach() / scale
            parts.append(gate.theta.grad)
    finite = not parts or bool(torch.cat(parts).isfinite().all())
    if not finite or (abs(scale) >= SCALED and _was_skipped(optimizers)):
        return None
    return slopes


def _check_read(gated: GatedModel) -> None:
    """Whether this step's forward and backward passes have gone through the gates.

    Raises:
        ValueError: they have not, and their importance would stay 0 without a word.
    """
    gates = {slot: gate for slot, gate in zip(gated.gates, gated.all_gates(), strict=True)}
    unread = [slot for slot, gate in gates.items() if not gate.is_read]
    if gates and (len(unread) == len(gates) or not gated.sampler.is_drawn):
        raise ValueError(
            "step: the model has not run in training mode since the last step; call model.train() "
            "and model(x) on the model that was attached: a copy has no part in the search, and "
            "model.forward_features(x) draws no gates"
        )
    if unread:
        raise ValueError(
            f"step: the model no longer reads the gate {unread[0]!r} ({len(unread)} of "
            f"{len(gates)}): layers were swapped after attach (by convert_sync_batchnorm, say); "
            "do that before attach"
        )
    if gates and not any(gate.has_slopes for gate in gates.values()):
        raise ValueError(
            "step: no gradient has reached the gates; differentiate the loss by loss.backward(): "
            "torch.autograd.grad leaves out what it was not asked for"
        )


def _was_skipped(optimizers: Iterable[torch.optim.Optimizer]) -> bool:
    """Whether a GradScaler has skipped the optimizers' step: a gradient is not finite.

    Raises:
        ValueError: the gradients are gone already, so that nobody can tell.
    """
    groups = [group for o in optimizers for group in o.param_groups]
    gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
    largest = float(nn.utils.get_total_norm(gradients, float("inf"))) if gradients else 0.0
    if largest == 0.0:
        raise ValueError(
            "step: the loss is scaled, and the gradients that tell whether the scaler skipped the "
            "step are gone; call search.step() before optimizer.zero_grad()"
        )
    return largest != largest or largest == float("inf")


class LostWeightsError(ValueError):
    """A weight is no finite number any more."""


def check_weights(model: nn.Module, steps: int) -> None:
    """Whether the weights have survived a loss that was not finite.

    Raises:
        LostWeightsError: they have not.
    """
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise LostWeightsError(
                f"model: {name} is not finite any more: the loss has diverged after {steps} steps "
                "of the search; lower the learning rate, or clip the gradients"
            )
