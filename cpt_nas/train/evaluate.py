"""Loss and accuracy: of an epoch while it trains, and on the test images."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cpt_nas.data.batches import Batches


class Meter:
    """Mean loss and accuracy of an epoch, kept on the device until they are read."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, loss: Tensor, logits: Tensor, y: Tensor) -> None:
        right = (logits.argmax(1) == y).sum()
        self.sums += torch.stack([loss.double() * len(y), right.double(), right.new_tensor(len(y))])

    def read(self) -> tuple[float, float]:
        """(mean loss, accuracy in percent), over all processes, which all have to call it."""
        sums = self.sums.clone()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        return _means(sums)

    def read_own(self) -> tuple[float, float]:
        """(mean loss, accuracy in percent) of this process alone."""
        return _means(self.sums)


def _means(sums: Tensor) -> tuple[float, float]:
    loss, right, n = sums.tolist()
    return loss / max(n, 1), 100 * right / max(n, 1)


@torch.no_grad()
def evaluate(
    model: nn.Module, data: Batches, device: torch.device, amp: Any = None
) -> tuple[float, float]:
    """(mean cross-entropy, accuracy in percent) on the test images."""
    model.eval()
    loss, right, n = 0.0, 0, 0
    for x, y in data.test(device):
        with amp or nullcontext():
            logits = model(x)
        loss += float(nn.functional.cross_entropy(logits.float(), y, reduction="sum"))
        right += int((logits.argmax(1) == y).sum())
        n += len(y)
    return loss / n, 100 * right / n
