"""Gates of the chains: every unit, and with skips every section.

What runs from one section to the next is a stream of channels. Without skips it is one weight
layer's outputs. With them, a section that keeps the width adds to the stream that it reads: so the
stream goes on until a path around a section projects it. Everything that reads it is a dense
layer, so its channels are units: with one go the rows of all the layers that write it, and the
columns of all that read it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Count, UnitGroup
from cpt_nas.adapters.chains import GroupBuilder, flatten, inputs_of, is_dense, outputs_of
from cpt_nas.adapters.residual import chain_block
from cpt_nas.models.chain_net import ChainNet, Section

chain_block(Section, chain=("body",), shortcut="skip")


@dataclass
class _Stream:
    """The layers between which a number of channels runs.

    Attributes:
        channels: how many.
        writers: dense layers whose outputs are the channels.
        passed: modules that keep them apart.
        added: sections that add to them.
        readers: dense layers whose inputs are the channels.
    """

    channels: int
    writers: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    readers: list[str] = field(default_factory=list)


@REGISTRY.add(ChainNet)
def chain_net(model: nn.Module) -> list[Branch]:
    """The units of all the weight layers but the classifier."""
    assert isinstance(model, ChainNet)
    streams: list[_Stream] = []
    for index, section in enumerate(model.features):
        name = f"features.{index}"
        body = [f"{name}.body"] if isinstance(section, Section) else [name]
        around = [f"{name}.skip"] if isinstance(section, Section) else []
        (writer, layer), *behind = flatten(model, body)
        path = list(flatten(model, around))
        projections = [n for n, part in path if is_dense(part)]
        pools = [n for n, part in path if not is_dense(part)]
        if streams:
            streams[-1].readers += [writer, *projections]
        if projections or not around:
            if streams:
                streams[-1].passed += pools
            streams.append(_Stream(outputs_of(layer)))
            pools = []
        # A path without a projection, around the first section, passes the input itself.
        if streams:
            streams[-1].writers += [writer, *projections]
            streams[-1].passed += [*(n for n, _ in behind), *pools]
            streams[-1].added += [name] if around else []
    if isinstance(model.fc, nn.Linear):
        streams[-1].readers.append("fc")
    else:  # the last one is what the network puts out
        streams.pop()
    groups = [_group(model, stream) for stream in streams]
    reason = "units alone: its sections go by themselves" if model.skip else "it has no skip"
    return [Branch("features", tuple(groups), (), "", (), None, reason)]


def _group(model: ChainNet, stream: _Stream) -> UnitGroup:
    """The stream's channels as units, named by its first layer."""
    build = GroupBuilder(model, stream.channels)
    for name in stream.writers:
        build.made(name)
    for name in stream.passed:
        build.passed(name, model.get_submodule(name), 1)
    for name in stream.readers:
        build.read(name, inputs_of(model.get_submodule(name)) // stream.channels)
    build.produced |= {f"{name}:add": 1 for name in stream.added}
    first = stream.writers[0]
    if "fc" in stream.readers:
        build.counts.append(Count("", "num_features", build.consumed["fc"]))
    linear = isinstance(model.get_submodule(first), nn.Linear)
    return UnitGroup(
        name=first,
        kind="hidden" if linear else "filters",
        size=stream.channels,
        slices=tuple(build.slices),
        counts=tuple(build.counts),
        folds=tuple(build.folds),
        produced_by=build.produced,
        consumed_by=build.consumed,
    )
