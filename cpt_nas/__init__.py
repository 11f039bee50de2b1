"""Structure discovery for timm models that listens to the hardware.

    search = cpt_nas.attach(model, example_input, profile="cpu.yaml", log_gamma=0.02)

Importing this package also puts ``cpt_resnet20`` ... ``cpt_pruned`` into timm's registry.
"""

from cpt_nas import models
from cpt_nas.pretrained.loading import LoadedWeights, load_weights
from cpt_nas.pruning.export import export
from cpt_nas.pruning.structure import Structure, cut_to, load_structure
from cpt_nas.search.attach import attach
from cpt_nas.search.result import SearchResult
from cpt_nas.search.search import Search
from hwprofiles._version import __version__

__all__ = [
    "LoadedWeights",
    "Search",
    "SearchResult",
    "Structure",
    "__version__",
    "attach",
    "cut_to",
    "export",
    "load_structure",
    "load_weights",
    "models",
]
