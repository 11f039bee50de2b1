"""timm.models.convmixer: the depthwise convolutions of a model are residual branches."""

from __future__ import annotations

from timm.models.convmixer import Residual

from cpt_nas.adapters.residual import chain_block

chain_block(Residual, chain=("fn",))
