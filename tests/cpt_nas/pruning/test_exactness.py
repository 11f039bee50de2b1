"""What is not exactly the class that an adapter knows is not gated, and the reason is said."""

from __future__ import annotations

import types
from collections.abc import Callable

import pytest
import timm
import torch
from timm.layers import freeze_batch_norm_2d
from timm.models.resnet import BasicBlock, ResNet
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

import cpt_nas
from cpt_nas.pruning.search_space import find_branches
from tests.support.families import FAMILIES
from tests.support.networks import build, randomize_all
from tests.support.searches import close, close_some, fix_masks

Edit = Callable[[nn.Module], object]


class Lora(nn.Linear):
    """A linear layer with a low-rank part beside its weight."""

    def __init__(self, old: nn.Linear) -> None:
        super().__init__(old.in_features, old.out_features, old.bias is not None)
        self.down = nn.Parameter(0.1 * torch.randn(2, old.in_features))
        self.up = nn.Parameter(0.1 * torch.randn(old.out_features, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + x @ self.down.T @ self.up.T


class Softened(nn.Module):
    """An activation that looks at all the units."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.softmax(x, -1)


class ScaledIdentity(nn.Identity):
    """Does something, although it derives from what does nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.mean(-1, keepdim=True)


def swap(path: str, make: Callable[[nn.Module], nn.Module]) -> Edit:
    """Put ``make(old)`` in the place of a module of every block."""

    def edit(model: nn.Module) -> None:
        for name, module in list(model.named_modules()):
            if name.endswith("." + path):
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, make(module))

    return edit


def on_each(path: str, change: Callable[[nn.Module], object]) -> Edit:
    def edit(model: nn.Module) -> None:
        for name, module in model.named_modules():
            if name.endswith("." + path):
                change(module)

    return edit


def flipped(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return self.fc2(self.act(self.fc1(x)).flip(-1))


def replace_forward(module: nn.Module) -> None:
    module.forward = types.MethodType(flipped, module)


def centred(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
    return output - output.mean(-1, keepdim=True)


def hook(module: nn.Module) -> None:
    module.register_forward_hook(centred)


def pre_hook(module: nn.Module) -> None:
    module.register_forward_pre_hook(lambda module, inputs: (inputs[0].flip(-1),))


def weight_norm(module: nn.Module) -> None:
    parametrizations.weight_norm(module)


def old_weight_norm(module: nn.Module) -> None:
    module.weight_g = nn.Parameter(module.weight.detach().norm(dim=1, keepdim=True))
    module.weight_v = nn.Parameter(module.weight.detach().clone())
    del module.weight

    def compute(module: nn.Module, inputs: object) -> None:
        v = module.weight_v
        module.weight = v * (module.weight_g / v.norm(dim=1, keepdim=True))

    module.register_forward_pre_hook(compute)


def prune_mask(module: nn.Module) -> None:
    prune.random_unstructured(module, "weight", 0.3)


def gradient_hook(module: nn.Module) -> None:
    module.weight.register_hook(lambda gradient: gradient * 0)


def instance_norm(old: nn.Module) -> nn.Module:
    return nn.InstanceNorm2d(old.num_features)


def low_rank(old: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(old.in_features, 4), nn.Linear(4, old.out_features))


# family, the edit, a part of the reason
EDITS: dict[str, tuple[str, Edit, str]] = {
    **{
        f"lora_{part}": ("vit", swap(part, Lora), "Lora, a class that is neither")
        for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    },
    "lora_swiglu": ("eva02_sub_ln", swap("mlp.fc1_g", Lora), "fc1_g: Lora"),
    "lora_glu": ("eva02", swap("mlp.fc2", Lora), "fc2: Lora"),
    "low_rank": ("vit", swap("attn.qkv", low_rank), "qkv: Sequential, not a linear layer"),
    "own_activation": ("vit", swap("mlp.act", lambda _: Softened()), "act: Softened"),
    "softmax_in_glu": ("eva02", swap("mlp.act", lambda _: nn.Softmax(-1)), "act: Softmax mixes"),
    "activation_in_star": ("starnet", swap("act", lambda _: nn.Softmax(1)), "act: Softmax mixes"),
    "identity_subclass": ("vit", swap("mlp.drop1", lambda _: ScaledIdentity()), "ScaledIdentity"),
    "drop_in_attention": ("vit", swap("attn.attn_drop", lambda _: nn.Softmax(1)), "may mix"),
    "norm_of_queries": ("vit", swap("attn.q_norm", lambda _: nn.Softmax(1)), "q_norm: Softmax"),
    "forward": ("vit", on_each("mlp", replace_forward), "its forward was replaced"),
    "hook": ("vit", on_each("mlp.act", hook), "a hook on it, centred"),
    "pre_hook": ("vit", on_each("attn.proj", pre_hook), "proj: a hook on it"),
    "hook_on_the_last_norm": ("resnet", on_each("bn2", hook), "bn2: a hook on it"),
    "hook_on_an_identity": ("vit", on_each("mlp.drop1", hook), "drop1: a hook"),
    "weight_norm": ("resnet", on_each("conv2", weight_norm), "weight is computed by a param"),
    "old_weight_norm": ("vit", on_each("mlp.fc2", old_weight_norm), "fc2: a hook on it"),
    "prune_mask": ("vit", on_each("mlp.fc2", prune_mask), "fc2: a hook on it"),
    "gradient_hook": ("vit", on_each("mlp.fc1", gradient_hook), "a hook on its weight"),
    "frozen_norm": ("resnet", freeze_batch_norm_2d, "a frozen norm"),
    "instance_norm": (
        "resnet",
        swap("bn1", lambda n: nn.InstanceNorm2d(n.num_features)),
        "a norm that is not",
    ),
    "activation_behind": ("resnet", swap("act2", lambda _: Softened()), "act2: Softened"),
    "no_relu_in_dla": ("dla", swap("relu", lambda _: nn.LeakyReLU()), "relu: LeakyReLU"),
    "part_taken_out": ("vit", on_each("attn", lambda m: delattr(m, "proj")), "parts are not"),
}


UNTRACEABLE = {"part_taken_out", "weight_norm", "instance_norm", "prune_mask"}
"""Cannot be run as they are, or refused by attach as a whole."""


def masked_and_cut(model: nn.Module, x: torch.Tensor, **settings: object) -> cpt_nas.Search:
    """Attach, decide at random, and hold the masked against the cut network."""
    search = cpt_nas.attach(model, x[:1], log_gamma=0.1, **settings)
    close_some(search, seed=2)
    fix_masks(search)
    masked = model.eval()(x)
    assert close(search.finish().eval()(x), masked)
    return search


def model_of(family: str) -> tuple[nn.Module, torch.Tensor]:
    name, kwargs, size = FAMILIES[family]
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=5, **kwargs), torch.randn(2, 3, size, size).double()


@pytest.mark.parametrize("edit", EDITS)
def test_a_part_of_another_kind_is_not_gated(edit: str) -> None:
    family, change, reason = EDITS[edit]
    model, x = model_of(family)
    whole = find_branches(model)
    change(model)
    model = randomize_all(model).double()
    space = find_branches(model)
    said = [*space.refusals.values(), *(b.branch.uncut for b in space.branches)]
    assert any(reason in why for why in said), said
    if edit in UNTRACEABLE:
        return
    assert edit == "low_rank" or gates(space) < gates(whole)
    if space.branches:
        masked_and_cut(model, x)


def gates(space: object) -> int:
    units = sum(g.size for b in space.branches for g in b.branch.groups)
    return units + sum(b.branch.remove is not None for b in space.branches)


def test_what_is_beside_the_edited_part_stays_gated() -> None:
    model, _ = model_of("vit")
    model.blocks[0].attn.qkv = Lora(model.blocks[0].attn.qkv)
    space = find_branches(model)
    assert "blocks.0.mlp" in space.by_name and "blocks.1.attn" in space.by_name
    assert "blocks.0.attn" not in space.by_name


def test_attach_names_the_parametrization_that_it_cannot_count() -> None:
    model = build("basic")
    weight_norm(model.layer1[0].conv2)
    with pytest.raises(ValueError, match=r"^model: layer1.0.conv2: weight is computed by a param"):
        cpt_nas.attach(model, torch.zeros(1, 3, 32, 32).double())


def test_attach_names_what_it_cannot_copy() -> None:
    model = build("basic")
    prune_mask(model.layer1[0].conv2)
    with pytest.raises(ValueError, match=r"^model: it cannot be copied"):
        cpt_nas.attach(model, torch.zeros(1, 3, 32, 32).double())


def test_a_class_whose_forward_was_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("basic")
    assert find_branches(model).branches
    monkeypatch.setattr(BasicBlock, "forward", lambda self, x: x)
    space = find_branches(model)
    assert not space.branches
    assert space.refusals["layer1.0"] == "BasicBlock.forward was replaced"


def test_a_lazy_layer_is_named() -> None:
    with pytest.raises(ValueError, match=r"^model: 0.weight has no shape yet"):
        find_branches(nn.Sequential(nn.LazyLinear(4)))


def test_a_subclass_is_named() -> None:
    class Halved(BasicBlock):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) / 2

    space = find_branches(ResNet(Halved, (1, 1, 1, 1), num_classes=3))
    assert space.refusals["layer1.0"].startswith("Halved, a class that is neither")


def test_a_hook_on_the_whole_model_changes_nothing() -> None:
    model = timm.create_model("vgg11_bn", num_classes=3)
    wanted = gates(find_branches(model))
    model.register_forward_hook(lambda module, inputs, output: output * 2)
    assert gates(find_branches(model)) == wanted > 0


def share_conv(model: nn.Module) -> None:
    model.layer1[1].conv2 = model.layer1[0].conv2


def tie_weight(model: nn.Module) -> None:
    model.layer1[1].conv2.weight = model.layer1[0].conv2.weight


def tie_memory(model: nn.Module) -> None:
    model.layer1[1].conv2.weight.data = model.layer1[0].conv2.weight.data


def share_block(model: nn.Module) -> None:
    model.layer1[1] = model.layer1[0]


def share_norm(model: nn.Module) -> None:
    model.layer1[1].bn2 = model.layer1[0].bn2


@pytest.mark.parametrize("share", [share_conv, tie_weight, tie_memory, share_block, share_norm])
def test_what_is_shared_between_branches_is_not_gated(share: Edit) -> None:
    model = build("basic")
    share(model)
    space = find_branches(model)
    assert not {"layer1.0", "layer1.1"} & space.by_name.keys()
    assert "layer1." in space.refusals["layer1.0"]
    masked_and_cut(model, torch.randn(2, 3, 32, 32).double())


def test_an_mlp_that_stands_in_every_block_is_cut_in_all_alike() -> None:
    """Its units, that is; it cannot go from one of the blocks."""
    model, x = model_of("vit")
    for block in model.blocks[1:]:
        block.mlp = model.blocks[0].mlp
    search = masked_and_cut(randomize_all(model).double(), x)
    branch = search.gated.branches["blocks.0.mlp"].branch
    assert branch.groups and branch.remove is None
    assert "blocks.1.mlp" not in search.gated.branches


@pytest.mark.parametrize("family", ["swin", "beit", "xcit", "gcvit"])
def test_every_branch_without_unit_gates_has_a_reason(family: str) -> None:
    space = find_branches(model_of(family)[0])
    silent = [b for b in space.branches if not b.branch.groups]
    assert silent and all(b.branch.uncut for b in silent)


def test_the_reason_names_what_nobody_knows_from_the_inside() -> None:
    branch = find_branches(model_of("swin")[0]).by_name["layers.0.blocks.0.attn"].branch
    assert branch.uncut == "attn: WindowAttention has no adapter, so its units stay"


def test_an_own_module_in_a_sequence_closes_the_chain_there() -> None:
    """An own module in a plain Sequential closes the chain there, not elsewhere."""

    class Own(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.normalize(x, dim=1)

    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), Own()),
        *(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten()),
    )
    (item,) = find_branches(model).branches
    assert [g.name for g in item.branch.groups] == ["1", "5"]
    masked_and_cut(model.double(), torch.randn(2, 3, 16, 16).double())
