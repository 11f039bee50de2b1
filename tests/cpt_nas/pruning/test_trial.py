"""In a model that timm does not make, what is not the same masked and cut is not gated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import timm
import torch
from torch import Tensor, nn

import cpt_nas
from cpt_nas.pruning.search_space import find_branches
from cpt_nas.pruning.trial import REASON, failures
from tests.support.networks import build, randomize_all
from tests.support.searches import close, close_some, fix_masks


def convs(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in zip((3, *widths), widths):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


class Tapped(nn.Module):
    """Reads what lies between the layers of its own sequence, into another width."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = convs(8, 8, 16), nn.Linear(16, 4)
        self.side = nn.Linear(8, 4)
        self.free = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        seen = []
        for layer in self.body:
            x = layer(x)
            seen.append(x)
        y = self.head(x.mean((2, 3))) + self.side(seen[1].mean((2, 3)))
        return self.free(y)


class Skipping(Tapped):
    """Adds up what lies between: the shapes fit before a cut."""

    def forward(self, x: Tensor) -> Tensor:
        a = self.body[:2](x)
        b = self.body[2:4](a)
        return self.free(self.side((a + b).mean((2, 3))))


class Reading(Tapped):
    """Looks at a weight of the sequence beside calling it: masked and cut differ in value only."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.body(x).mean((2, 3)))
        return self.free(y * self.body[2].weight.abs().mean())


class Around(nn.Module):
    """Calls a block of timm's, and its last layer once more."""

    def __init__(self) -> None:
        super().__init__()
        self.net = build("basic")

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)
        stem = self.net.bn1(self.net.conv1(x))
        return y + self.net.layer1[0].conv2(stem).mean()


class Negative(nn.Module):
    """A ReLU block behind one whose ReLU was taken out: its input is not what timm's is."""

    def __init__(self) -> None:
        super().__init__()
        self.net = build("basic")
        self.net.layer1[0].act2 = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


MODELS: dict[Callable[[], nn.Module], set[str]] = {
    Tapped: {"body"},
    Skipping: {"body"},
    Reading: {"body"},
    Around: {"net.layer1.0"},
    Negative: {"net.layer1.1"},
}


@pytest.mark.parametrize("make", MODELS)
def test_what_is_read_from_outside_is_not_gated(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = make(), torch.randn(2, 3, 32, 32).double()
    model = randomize_all(model).double()
    with pytest.warns(UserWarning, match="not made by timm"):
        search = cpt_nas.attach(model, x[:1], log_gamma=0.1)
    refused = set(search.dense.branches) - set(search.gated.branches)
    assert refused == MODELS[make]
    assert search.gated.branches  # what is beside it stays
    close_some(search, seed=1)
    fix_masks(search)
    masked = model.eval()(x)
    assert close(search.finish().eval()(x), masked)


def test_a_model_as_timm_makes_it_passes() -> None:
    for name in ("test_resnet", "test_vit"):
        model = timm.create_model(name, num_classes=4)
        x = torch.zeros(1, *model.pretrained_cfg["input_size"])
        assert failures(model, find_branches(model), x) == {}


def test_a_forward_that_holds_on_to_the_model_is_seen() -> None:
    """Its copies would run the model itself: nothing that is tried on them says anything."""
    model = Tapped()
    forward = model.forward
    model.forward = lambda x: forward(x)
    with pytest.raises(ValueError, match=r"^model: a copy of it does not run the copy's weights"):
        failures(model, find_branches(model), torch.zeros(1, 3, 8, 8))


def test_outputs_may_be_of_any_form() -> None:
    @dataclass
    class Outputs:
        logits: Tensor
        maps: dict[str, list[Tensor]]

    class Formed(Tapped):
        def forward(self, x: Tensor) -> Outputs:
            return Outputs(super().forward(x), {"maps": [x]})

    class Silent(Tapped):
        def forward(self, x: Tensor) -> str:
            return "cat"

    model = Formed()
    assert failures(model, find_branches(model), torch.zeros(1, 3, 8, 8)) == {"body": REASON}
    model = Silent()
    with pytest.raises(ValueError, match=r"^model: Silent puts out no tensors"):
        failures(model, find_branches(model), torch.zeros(1, 3, 8, 8))


def test_a_model_of_single_precision_is_tried_in_it() -> None:
    class Single(Tapped):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) @ torch.eye(4)

    model = Single()
    assert failures(model, find_branches(model), torch.zeros(1, 3, 8, 8)) == {"body": REASON}
