"""Names that this package adds to timm's registry; importing it registers them."""

from cpt_nas.models import chain_adapter, chain_net, cifar_resnet, pruned

__all__ = ["chain_adapter", "chain_net", "cifar_resnet", "pruned"]
