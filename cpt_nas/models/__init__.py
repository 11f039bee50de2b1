"""Names that this package adds to timm's registry; importing it registers them."""

from cpt_nas.models import cifar_resnet, pruned

__all__ = ["cifar_resnet", "pruned"]
