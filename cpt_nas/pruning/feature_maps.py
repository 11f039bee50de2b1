"""What timm models say of the widths of their feature maps: ``feature_info``.

An entry names a module, and the channels that it puts out. Where these are units, the entry counts
them, whichever block's adapter has found them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from timm.models import FeatureInfo
from torch import nn

from cpt_nas.adapters import Count
from cpt_nas.adapters.chains import flatten, has
from cpt_nas.pruning.surgery import join

_CALLS = ("add", "conv2d")
"""Functions that a module calls last; what they put out is what the module puts out."""
_INNER = ("", "model")
"""Where what has the ``feature_info`` holds the modules: itself, or timm's FeatureGetterNet."""


@dataclass(frozen=True)
class _Entry:
    """One feature map.

    Attributes:
        owner: path of the module that has the ``feature_info``.
        attribute: the number of channels, from there.
        tap: path of the module whose output it is, the last of a row of modules.
    """

    owner: str
    attribute: str
    tap: str

    def per_unit(self, produced: Mapping[str, int]) -> int:
        """Channels of the map that a unit has; 0 where its channels are no units of the group.

        Args:
            produced: names of the layers whose output channels are the group's -> channels a unit.
        """
        widths = (w for name, w in produced.items() if self._is_made_by(name))
        return next(widths, 0)

    def _is_made_by(self, name: str) -> bool:
        whole = name == self.tap or self.tap.startswith(f"{name}.")
        return whole or name in [f"{self.tap}:{call}" for call in _CALLS]


class FeatureMaps:
    """The feature maps of a model, and of the networks in it.

    Args:
        model: its modules are read, not run.
    """

    def __init__(self, model: nn.Module) -> None:
        self._entries = tuple(_entries(model))

    def counts(self, produced: Mapping[str, int]) -> tuple[Count, ...]:
        """What counts a group's units among the widths of the feature maps.

        Args:
            produced: names in the model of the layers whose output channels are the group's ->
                channels a unit.
        """
        widths = [(entry, entry.per_unit(produced)) for entry in self._entries]
        return tuple(
            Count(entry.owner, entry.attribute, width, of_model=True)
            for entry, width in widths
            if width
        )


def _entries(model: nn.Module) -> Iterator[_Entry]:
    for path, owner in model.named_modules():
        said: Any = vars(owner).get("feature_info")
        attribute = "feature_info"
        if isinstance(said, FeatureInfo):
            said, attribute = said.info, "feature_info.info"
        for index, info in enumerate(said if isinstance(said, list | tuple) else ()):
            if not isinstance(info, Mapping) or not {"module", "num_chs"} <= info.keys():
                continue  # somebody's own attribute of that name
            tap = _tap(model, path, info["module"])
            if tap:
                yield _Entry(path, f"{attribute}.{index}.num_chs", tap)


def _tap(model: nn.Module, owner: str, name: str) -> str:
    """The path of the module that an entry's channels come from; '' where it names none."""
    paths = [join(owner, inner, name) for inner in _INNER]
    here = [path for path in paths if name and has(model, path)]
    if not here:
        return ""
    *_, last = (here[0], *(path for path, _ in flatten(model, here[:1])))
    return last
