"""timm.models.resnet: BasicBlock and Bottleneck (SE/ECA, anti-aliasing, grouped convs too).

The unit gate sits after norm and activation, so a zero is exactly a missing unit in eval and in
train mode. A grouped 3x3 conv has whole groups as its units: they take their share of conv1,
conv2 and conv3 with them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.chains import is_silent, unit_groups
from cpt_nas.adapters.residual import tail


def shortcut_remains(
    downsample: str, act: str
) -> Callable[[nn.Module], tuple[Callable[[nn.Module], nn.Module], bool]]:
    """How a post-activation block is replaced: act(downsample(x)), or nothing.

    Args:
        downsample, act: names of the block's modules.

    Returns:
        block -> (remove, whether nothing is left of the block). ReLU of what a ReLU made is
        itself, so a ReLU goes with an identity shortcut; another activation stays.
    """

    def plan(block: nn.Module) -> tuple[Callable[[nn.Module], nn.Module], bool]:
        shortcut, last = getattr(block, downsample), getattr(block, act)
        nothing = is_silent(shortcut) and (isinstance(last, nn.ReLU) or is_silent(last))

        def remove(now: nn.Module) -> nn.Module:
            if nothing:
                return nn.Identity()
            left = OrderedDict()
            if not is_silent(shortcut):
                left[downsample] = getattr(now, downsample)
            left[act] = getattr(now, act)
            return nn.Sequential(left)

        return remove, nothing

    return plan


_remains = {BasicBlock: shortcut_remains("downsample", "act2")}
_remains[Bottleneck] = shortcut_remains("downsample", "act3")


def _branch(block: nn.Module, chain: tuple[str, ...], act: str) -> list[Branch] | Refusal:
    """What BasicBlock and Bottleneck share: norm, attention, add, activation, shortcut."""
    remove, nothing = _remains[type(block)](block)
    groups, uncut = unit_groups(block, chain)
    attended = block.se is not None
    return [
        Branch(
            name="",
            groups=groups,
            # An attention after the last norm is not linear: scale its output instead.
            folds=() if attended else tail(block, chain),
            multiply="se" if attended else chain[-1],
            layers=(*chain, "se", "drop_path", ":add", *((act,) if nothing else ())),
            remove=remove,
            uncut=uncut,
        )
    ]


@REGISTRY.add(BasicBlock)
def basic_block(block: nn.Module) -> list[Branch] | Refusal:
    """conv1 - bn1 - act1 - conv2 - bn2: one group, conv1's filters."""
    chain = ("conv1", "bn1", "drop_block", "act1", "aa", "conv2", "bn2")
    return _branch(block, chain, "act2")


@REGISTRY.add(Bottleneck)
def bottleneck(block: nn.Module) -> list[Branch] | Refusal:
    """1x1 - 3x3 - 1x1: two groups of filters, or one of whole groups."""
    chain = ("conv1", "bn1", "act1", "conv2", "bn2", "drop_block", "act2", "aa", "conv3", "bn3")
    return _branch(block, chain, "act3")
