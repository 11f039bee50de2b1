"""Weights that were matched by order are right where torchvision's network gives the same outputs.

Order and shape alone could swap two layers of one shape. torchvision has the network that its own
names are of, and runs it beside timm's.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torchvision
from torch import Tensor, nn

from cpt_nas.pretrained.matching import COUNTER
from cpt_nas.pruning.probe import outputs, same

SHARED = {
    "mobilenetv2_100": "mobilenet_v2",
    "mnasnet_050": "mnasnet0_5",
    "mnasnet_075": "mnasnet0_75",
    "mnasnet_100": "mnasnet1_0",
    **{f"efficientnet_b{i}": f"efficientnet_b{i}" for i in range(8)},
    **{f"tf_efficientnet_b{i}": f"efficientnet_b{i}" for i in range(8)},
    **{f"efficientnetv2_{s}": f"efficientnet_v2_{s}" for s in "sml"},
    **{f"tf_efficientnetv2_{s}": f"efficientnet_v2_{s}" for s in "sml"},
}
"""timm's name -> torchvision's, of networks whose layers stand in the same order."""
SIDE = 64  # pixels; the least that all of them take


def reference_of(architecture: str, state: Mapping[str, Tensor]) -> nn.Module | None:
    """torchvision's network with these weights; None where there is none, or it has other names.

    Args:
        architecture: timm's name.
        state: tensors under torchvision's names.
    """
    name = SHARED.get(architecture)
    if name is None:
        return None
    *_, classes = (tensor.shape[0] for tensor in state.values() if tensor.dim())
    with torch.device("meta"):
        reference: nn.Module = torchvision.models.get_model(name, num_classes=classes)
    if {n for n in reference.state_dict() if not n.endswith(COUNTER)} != {
        n for n in state if not n.endswith(COUNTER)
    }:
        return None
    reference = reference.to_empty(device="cpu")
    reference.load_state_dict(dict(state), strict=False)
    return reference.double().eval()


def agrees(
    reference: nn.Module, model: nn.Module, tensors: Mapping[str, Tensor], *, exactly: bool = True
) -> bool:
    """Whether a copy of the model, with a head of as many classes, has the reference's outputs.

    Args:
        model: of 1 or 3 input channels.
        tensors: the model's name -> the file's tensor, its head included.
        exactly: to double precision; False where a tensor was computed from the file's.
    """
    twin = copy.deepcopy(model)
    classes = reference(torch.zeros(1, 3, SIDE, SIDE, dtype=torch.float64)).shape[1]
    with torch.random.fork_rng(devices=[]):
        twin.reset_classifier(classes)  # type: ignore[operator]
    twin.load_state_dict(dict(tensors), strict=False)
    twin.double().eval()
    channels = 3 if getattr(model, "in_chans", 3) == 3 else 1
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, channels, SIDE, SIDE, generator=generator, dtype=torch.float64)
    # A convolution that was made for one channel is the sum over three that are alike.
    pair = outputs(twin, x), outputs(reference, x.expand(-1, 3, -1, -1))
    return same(*(([t if exactly else t.float() for t in each]) for each in pair))
