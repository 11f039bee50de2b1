"""Structure discovery for timm models that listens to the hardware.

    search = cpt_nas.attach(model, example_input, profile="cpu.yaml", log_gamma=0.02)

Importing this package also puts ``cpt_resnet20`` ... ``cpt_pruned`` into timm's registry.
"""

from cpt_nas import registry
from cpt_nas.search import Search, attach
from cpt_nas.structure import Structure, load_structure

__all__ = ["Search", "Structure", "attach", "load_structure", "registry"]
