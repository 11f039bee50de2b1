"""Models of a user's words are tried before anything depends on them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from hwprofiles.models import check_size, check_training, create_model


def test_a_model_is_tried_without_a_trace() -> None:
    """Random state, mode and statistics are as before; what does not train is named."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    state, weights = torch.get_rng_state(), copy.deepcopy(model.state_dict())
    check_size(model, (3, 8, 8), "size")
    check_training(model, (2, 3, 8, 8), "batch")
    assert torch.equal(state, torch.get_rng_state()) and model.training
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())
    with pytest.raises(ValueError, match=r"^batch: Expected more than 1 value per channel"):
        check_training(model, (1, 3, 3, 3), "batch")
    with pytest.raises(ValueError, match=r"^size: RuntimeError: "):
        check_size(model, (1, 8, 8), "size")


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"channels": (0, 8, 8)}, "has no elements, widths must be above 0"),
        ({"act_layer": "rellu"}, "KeyError: no 'rellu'"),
        ({"wings": 2}, "TypeError: .*'wings'"),
    ],
)
def test_what_timm_does_not_make_is_named(kwargs: dict[str, object], message: str) -> None:
    import cpt_nas  # noqa: F401, adds the model

    with pytest.raises(ValueError, match=rf"^model: x: .*{message}"):
        create_model("cpt_resnet20", kwargs, "model: x")
