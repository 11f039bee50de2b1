"""timm.models.iformer: every branch stands in a Residual, which may scale it."""

from __future__ import annotations

from timm.models.iformer import Residual

from cpt_nas.adapters.residual import residual_block

residual_block(Residual, ("module", "drop_path", "gamma"))
