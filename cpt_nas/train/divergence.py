"""A training that has diverged stops: its weights are lost, and nothing after them is worth it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from cpt_nas.data.batches import Batches
from cpt_nas.search.backward import LostWeightsError
from cpt_nas.train.checkpoint_file import LAST
from cpt_nas.train.state import TrainingState

EVERY = 10
"""Steps after which the losses of an accelerator are read: reading waits for it."""

HOPELESS = 10.0
"""A loss this many times that of guessing is a divergence, where nothing is classified by it."""

ADVICE = "try a lower train.lr, train.warmup_epochs, or train.clip_grad"


class DivergedError(ValueError):
    """The loss, or a weight, is no finite number any more."""


class LossWatch:
    """Looks at every step's loss; on the CPU at once, elsewhere a few steps later.

    Args:
        output: the run folder, which the message names.
        device: where the losses are.
    """

    def __init__(self, output: Path, device: torch.device) -> None:
        self.output = output
        self.every = 1 if device.type == "cpu" else EVERY
        self.seen: list[tuple[int, float, Tensor]] = []  # step, learning rate, loss

    def see(self, loss: Tensor, state: TrainingState) -> None:
        """The loss that a step is about to be taken on.

        Raises:
            DivergedError: it, or one of the last, is not finite; names step, epoch and rate.
        """
        rate = float(state.optimizer.param_groups[0]["lr"])
        self.seen.append((state.step + 1, rate, loss.detach()))
        if len(self.seen) == self.every:
            self.check(state)

    def check(self, state: TrainingState) -> None:
        """Look at those that have not been looked at; to be called before an epoch is counted."""
        seen, self.seen = self.seen, []
        if not seen:
            return
        values = torch.stack([loss for *_, loss in seen]).tolist()
        for (step, rate, _), value in zip(seen, values):
            if not math.isfinite(value):
                epoch = state.epoch + 1
                raise _diverged(f"the loss is {value}", state, self.output, step, epoch, rate)


def refuse_diverged(state: TrainingState, test_loss: float, output: Path) -> None:
    """Check what an epoch has come to, before it is written.

    Raises:
        DivergedError: a weight, or the loss on the test images, is not finite.
    """
    what = None if math.isfinite(test_loss) else f"the loss on the test images is {test_loss}"
    for network in (state.model, state.judged()):
        tensors = [t for t in network.state_dict().values() if t.is_floating_point()]
        if not torch.stack([t.isfinite().all() for t in tensors]).all():
            what = "a weight is not finite"
    if what is not None:
        rate = state.optimizer.param_groups[0]["lr"]
        raise _diverged(what, state, output, state.step, state.epoch, rate)


def guessing(labels: Tensor) -> tuple[float, float]:
    """What a network comes to that knows how frequent each class is, and nothing of the images.

    Args:
        labels: [N] int64.

    Returns:
        Its mean cross-entropy, and the percentage of the images that it classifies rightly.
    """
    shares = labels.bincount().double() / len(labels)
    return float(torch.special.entr(shares).sum()), 100 * float(shares.max())


def no_better(accuracy: float, images: int, guess: float) -> bool:
    """Whether an accuracy is what guessing gives, up to three standard deviations.

    Args:
        accuracy, guess: percent.
        images: that it was found on.
    """
    share = guess / 100
    return accuracy <= guess + 100 * 3 * math.sqrt(share * (1 - share) / images)


def refuse_hopeless(state: TrainingState, data: Batches, output: Path) -> None:
    """Check in the end that the last epoch was not a divergence with finite numbers.

    Raises:
        DivergedError: its loss is far above that of guessing, and its accuracy no better.
    """
    row, (loss, accuracy) = state.history[-1], guessing(data.labels)
    if row.train_loss > HOPELESS * loss and no_better(row.train_acc, len(data.labels), accuracy):
        raise DivergedError(
            f"train: the loss of epoch {row.epoch} is {row.train_loss:.4g}, of guessing {loss:.4g},"
            f" and {row.train_acc:.1f} % of the training images are classified rightly: diverged, "
            f"nothing is exported; {ADVICE}; the last checkpoint is {output / LAST}"
        )


def doubts(accuracy: float, images: int, data: Batches) -> list[str]:
    """What there is to say against a finished network, a line each.

    Args:
        accuracy: percent, on the test images.
        images: how many those are.
    """
    _, guess = guessing(data.labels)
    if not no_better(accuracy, images, guess):
        return []
    return [
        f"accuracy {accuracy:.2f} % on the {images} test images is no better than guessing "
        f"({guess:.2f} %): it has learnt nothing; train longer, or {ADVICE}"
    ]


@contextmanager
def told(state: TrainingState, output: Path) -> Iterator[None]:
    """Where the search finds the weights lost, it is told as the training tells it.

    Raises:
        DivergedError: names step, epoch and rate.
    """
    try:
        yield
    except LostWeightsError:
        rate = state.optimizer.param_groups[0]["lr"]
        what, step, epoch = "a weight is not finite", state.step + 1, state.epoch + 1
        raise _diverged(what, state, output, step, epoch, rate) from None


def _diverged(
    what: str, state: TrainingState, output: Path, step: int, epoch: int, rate: float
) -> DivergedError:
    where = f"at step {step}, in epoch {epoch}, learning rate {rate:.4g}"
    good = state.history[-1].epoch if state.history else 0
    kept = f"the last good checkpoint is {output / LAST}, of epoch {good}"
    return DivergedError(f"train: {what} {where}; {ADVICE}; {kept}")
