"""Adapters of timm's blocks. Each family has a file, which registers its classes when imported.

A family whose modules the installed timm does not have is left out, and named in ``MISSING``.
"""

import importlib
import pkgutil

from cpt_nas.adapters import attention, families, mlp
from cpt_nas.adapters.base import REGISTRY, Branch, Count, Refusal, Slice, UnitGroup

MISSING: dict[str, str] = {}
"""The families that are left out, each with the module of timm whose import failed."""

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
