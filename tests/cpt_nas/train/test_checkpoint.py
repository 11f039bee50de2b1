"""The state of an optimizer goes by names, and to where the parameters are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cpt_nas.train.checkpoint import load_optimizer_state, optimizer_state


def stepped(device: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(3, 2, device=device)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_state_that_was_read_onto_the_cpu_goes_to_its_parameters(device: str) -> None:
    """The meta device stands for any other than the CPU."""
    model, optimizer = stepped("cpu")
    saved = optimizer_state(model, optimizer)
    other = nn.Linear(3, 2, device=device)
    fresh = torch.optim.AdamW(other.parameters())
    load_optimizer_state(other, fresh, saved)
    for name, parameter in other.named_parameters():
        values = fresh.state[parameter]
        assert values["exp_avg"].device.type == device
        assert values["step"].device.type == "cpu"
        assert values["step"] == 1
        assert values["exp_avg"].shape == dict(model.named_parameters())[name].shape
