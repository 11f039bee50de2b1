"""Adapters, one file a block family. Importing this package registers them all."""

from cpt_nas.adapters import resnet
from cpt_nas.adapters.base import REGISTRY, Branch, Count, Refusal, Slice, UnitGroup

__all__ = ["REGISTRY", "Branch", "Count", "Refusal", "Slice", "UnitGroup", "resnet"]
