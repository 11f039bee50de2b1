"""timm.models.efficientnet and mobilenetv3: MobileNetV1 and LCNet, with blocks without skips.

Only the next block reads the outputs of such a block, so blocks in a row are one chain. The units
are the filters of its pointwise convolutions. A stage's last outputs are feature maps of the model
and are not cut.
"""

from __future__ import annotations

from collections.abc import Iterator

from timm.models._efficientnet_blocks import DepthwiseSeparableConv
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.chains import unit_groups
from cpt_nas.adapters.families.efficientnet import CHAINS


@REGISTRY.add(EfficientNet, MobileNetV3)
def blocks_in_a_row(model: nn.Module) -> list[Branch] | Refusal:
    """One branch for each stage that holds such rows of blocks."""
    branches = []
    for stage, blocks in enumerate(model.blocks):  # type: ignore[arg-type]
        rows = [
            unit_groups(
                model,
                [
                    f"blocks.{stage}.{i}.{part}"
                    for i in row
                    for part in CHAINS[DepthwiseSeparableConv]
                ],
            )
            for row in _rows(blocks)
        ]
        groups = tuple(group for found, _ in rows for group in found)
        uncut = "; ".join(dict.fromkeys(reason for _, reason in rows if reason))
        if groups:
            reason = "it has no skip connection"
            branches.append(Branch(f"blocks.{stage}", groups, (), "", (), None, reason, uncut))
    return branches


def _rows(blocks: nn.Module) -> Iterator[list[int]]:
    """The indices of blocks without skips that follow one another, row by row."""
    row: list[int] = []
    for index, block in enumerate(blocks.children()):
        if type(block) is DepthwiseSeparableConv and not block.has_skip:
            row.append(index)
        else:
            yield row
            row = []
    yield row
