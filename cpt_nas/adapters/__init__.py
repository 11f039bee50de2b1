"""Adapters of timm's blocks: one file a family, each registering its classes when imported.

A family that the installed timm does not have is left out: its models cannot be made then.
"""

import importlib
import pkgutil

from cpt_nas.adapters import attention, families, mlp
from cpt_nas.adapters.base import REGISTRY, Branch, Count, Refusal, Slice, UnitGroup

MISSING: dict[str, str] = {}
"""Family -> the module of timm that lacks what it needs."""

for _module in pkgutil.iter_modules(families.__path__):
    try:
        importlib.import_module(f"{families.__name__}.{_module.name}")
    except ImportError as error:
        if not (error.name or "").startswith("timm."):
            raise
        MISSING[_module.name] = str(error.name)

__all__ = [
    "MISSING",
    "REGISTRY",
    "Branch",
    "Count",
    "Refusal",
    "Slice",
    "UnitGroup",
    "attention",
    "mlp",
]
