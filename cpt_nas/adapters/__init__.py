"""Adapters of timm's blocks: one file a family, each registering its classes when imported."""

import importlib
import pkgutil

from cpt_nas.adapters.base import REGISTRY, Branch, Count, Refusal, Slice, UnitGroup

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["REGISTRY", "Branch", "Count", "Refusal", "Slice", "UnitGroup"]
