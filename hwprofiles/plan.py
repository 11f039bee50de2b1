"""The plan: the chains in which layers are timed, and the widths in each.

Layers are timed in chains that resemble networks of a search, because a layer's time depends on
what ran before it. One chain is the dense network, some are the whole network at a
smaller width, and some are residual blocks whose hidden width alone is smaller: every other weight
layer has its output narrowed, the next one its input.
"""

from __future__ import annotations

from collections.abc import Sequence

from hwprofiles.layers import LayerSpec

UNIFORM_SHARES = (1.0, 0.75, 0.5, 0.25, 1 / 16)
HIDDEN_SHARES = (0.5, 0.25)
# The sweep for the channel divisor covers this many widths below a wide layer's dense one.
WIDE_WINDOW = 128

Widths = tuple[int, int]


def plan_chains(specs: Sequence[LayerSpec], divisor: int) -> list[list[Widths]]:
    """The (in_channels, out_channels) of every layer of a network, one list a chain.

    Args:
        specs: the network's layers, in order.
        divisor: the channel divisor; widths other than the dense ones are multiples of it.

    Returns:
        The first chain is the dense network.
    """
    chains = [_chain(specs, divisor, (share,)) for share in UNIFORM_SHARES]
    for share in HIDDEN_SHARES:
        chains.append(_chain(specs, divisor, (share, 1.0)))
        chains.append(_chain(specs, divisor, (1.0, share)))
    return chains


def _chain(specs: Sequence[LayerSpec], divisor: int, out_shares: tuple[float, ...]) -> list[Widths]:
    """Weight layers take the output shares in turn; what follows one has its output's width."""
    widths = []
    share_in = out_shares[-1]
    turn = 0
    for spec in specs:
        if spec.form == "dense":
            share_out = out_shares[turn % len(out_shares)]
            turn += 1
            widths.append(
                (
                    _width(spec.in_channels, share_in, divisor),
                    _width(spec.out_channels, share_out, divisor),
                )
            )
            share_in = share_out
        elif spec.scalable:
            multiple = spec.channel_multiple * -(-divisor // spec.channel_multiple)
            if multiple >= spec.in_channels:
                multiple = spec.channel_multiple
            width = _width(spec.in_channels, share_in, multiple)
            widths.append((width, spec.out_channels_at(width)))
        else:
            widths.append((spec.in_channels, spec.out_channels))
    return widths


def _width(channels: int, share: float, multiple: int) -> int:
    if share == 1.0 or channels <= multiple:
        return channels
    return max(multiple, round(share * channels / multiple) * multiple)


def sweep_widths(channels: int) -> list[int]:
    """Widths up to ``channels``: all of a narrow layer, else those around multiples of 8 or 16."""
    if channels <= 32:
        return list(range(channels // 2, channels + 1))
    window, grid, remainders = (channels // 2, 8, (0, 1, 2, 4, 7))
    if channels > 128:
        window, grid, remainders = (WIDE_WINDOW, 16, (0, 1, 4, 8, 15))
    widths = range(channels - window, channels + 1)
    return [w for w in widths if w % grid in remainders or w == channels]
