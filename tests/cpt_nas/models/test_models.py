"""The CIFAR ResNets: published sizes, and everything timm does with a model."""

import re

import pytest
import timm
import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn

from cpt_nas.models import cifar_resnet
from cpt_nas.models.cifar_resnet import CifarResNet, PadShortcut

DEPTHS = (20, 32, 44, 56, 110)
# parameters and million MACs of convs and linear, He et al.'s networks counted by hand
PUBLISHED = {
    (20, "A"): (269_722, 40.55),
    (20, "B"): (272_474, 40.81),
    (56, "A"): (853_018, 125.49),
    (56, "B"): (855_770, 125.75),
    (110, "A"): (1_727_962, 252.89),
    (110, "B"): (1_730_714, 253.15),
}


def small(**kwargs):
    return timm.create_model("cpt_resnet20", **kwargs)


@pytest.mark.parametrize(("depth", "shortcut"), PUBLISHED)
def test_published_parameters_and_macs(depth, shortcut):
    model = timm.create_model(f"cpt_resnet{depth}", shortcut=shortcut).eval()
    params, mega_macs = PUBLISHED[depth, shortcut]
    assert sum(p.numel() for p in model.parameters()) == params
    counted = FlopCountAnalysis(model, torch.zeros(1, 3, 32, 32)).unsupported_ops_warnings(False)
    by_operator = counted.by_operator()
    assert round((by_operator["conv"] + by_operator["linear"]) / 1e6, 2) == mega_macs


@pytest.mark.parametrize("depth", DEPTHS)
def test_depth_is_the_number_of_convs_and_linears(depth):
    assert timm.is_model(f"cpt_resnet{depth}")
    model = timm.create_model(f"cpt_resnet{depth}", shortcut="A")
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == depth


def test_listed_with_its_config():
    assert set(timm.list_models("cpt_resnet*")) == {f"cpt_resnet{d}" for d in DEPTHS}
    model = small()
    assert type(model) is CifarResNet
    assert model.pretrained_cfg["architecture"] == "cpt_resnet20"
    config = timm.data.resolve_data_config(model=model)
    assert config["input_size"] == (3, 32, 32)
    assert config["crop_pct"] == 1.0


def test_option_a_subsamples_and_pads_with_zeros_on_both_sides():
    x = torch.arange(2 * 3 * 5 * 5, dtype=torch.float32).reshape(2, 3, 5, 5)
    y = PadShortcut(3, 8, stride=2)(x)
    assert y.shape == (2, 8, 3, 3)
    assert torch.equal(y[:, 2:5], x[:, :, [0, 2, 4]][..., [0, 2, 4]])
    assert y[:, :2].eq(0).all() and y[:, 5:].eq(0).all()


def test_shortcuts_sit_where_a_stage_widens():
    a, b = small(shortcut="A"), small(shortcut="B")
    for name in ("layer2.0", "layer3.0"):
        assert isinstance(a.get_submodule(name).downsample, PadShortcut)
        assert isinstance(b.get_submodule(name).downsample[0], nn.Conv2d)
    for model in (a, b):
        blocks = [m for n, m in model.named_modules() if re.fullmatch(r"layer\d\.\d", n)]
        assert len(blocks) == 9
        assert sum(m.downsample is not None for m in blocks) == 2


@pytest.mark.parametrize(
    "kwargs",
    [
        {"shortcut": "C"},
        {"shortcut": "a"},
        {"layers": (3, 3)},
        {"channels": (8, 16, 32, 64)},
    ],
)
def test_bad_arguments_are_named(kwargs):
    (field,) = kwargs
    with pytest.raises(ValueError, match=f"^{field}: .*must be"):
        small(**kwargs)


def test_init_is_timms_kaiming_with_open_branches():
    torch.manual_seed(0)
    model = timm.create_model("cpt_resnet56")
    weight = model.layer3[1].conv1.weight
    expected = (2 / (64 * 9)) ** 0.5  # fan_out, relu
    # 36,864 draws: the sample deviation is within 0.4 % of the true one, one sigma
    assert weight.std().item() == pytest.approx(expected, rel=0.02)
    assert model.layer3[1].bn2.weight.eq(1).all()
    assert small(zero_init_last=True).layer3[1].bn2.weight.eq(0).all()


def test_digits_inputs():
    model = small(in_chans=1, layers=(1, 1, 1), channels=(8, 16, 32)).eval()
    assert model(torch.zeros(2, 1, 16, 16)).shape == (2, 10)
    assert model.forward_features(torch.zeros(2, 1, 16, 16)).shape == (2, 32, 4, 4)


@pytest.mark.parametrize("kwargs", [{}, {"feature_cls": "getter"}])
def test_features_only(kwargs):
    model = small(features_only=True, **kwargs).eval()
    assert model.feature_info.channels() == [16, 16, 32, 64]
    assert model.feature_info.reduction() == [1, 1, 2, 4]
    shapes = [tuple(f.shape) for f in model(torch.zeros(1, 3, 32, 32))]
    assert shapes == [(1, 16, 32, 32), (1, 16, 32, 32), (1, 32, 16, 16), (1, 64, 8, 8)]


def test_features_only_out_indices():
    torch.manual_seed(0)
    model = small(features_only=True, out_indices=(1, -1), feature_cls="getter")
    assert [f.shape[1] for f in model(torch.zeros(1, 3, 32, 32))] == [16, 64]


def test_forward_intermediates():
    torch.manual_seed(0)
    model = small().eval()
    x = torch.randn(2, 3, 32, 32)
    final, taps = model.forward_intermediates(x)
    assert [t.shape[1] for t in taps] == [16, 16, 32, 64]
    assert torch.equal(final, model.forward_features(x))
    assert torch.equal(taps[-1], final)
    (last,) = model.forward_intermediates(x, indices=1, intermediates_only=True)
    assert torch.equal(last, final)
    early = model.forward_intermediates(x, indices=[0, 2], stop_early=True, intermediates_only=True)
    assert torch.equal(early[1], taps[2])
    assert len(early) == 2


def test_prune_intermediate_layers():
    whole = small().eval()
    assert whole.prune_intermediate_layers([1, -1], prune_head=False) == [1, 3]
    assert whole(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    ended = small().eval()
    assert ended.prune_intermediate_layers([1, 2]) == [1, 2]
    assert len(ended.layer3) == 0
    assert ended.num_features == 32
    assert ended(torch.zeros(1, 3, 32, 32)).shape == (1, 32, 16, 16)


def test_reset_classifier():
    model = small(drop_rate=0.1).eval()
    assert model.get_classifier() is model.fc
    model.reset_classifier(7)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    model.reset_classifier(0)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 64)
    assert small(num_classes=3, global_pool="catavgmax").fc.weight.shape == (3, 128)


def test_group_matcher_covers_every_parameter():
    model = small(shortcut="B")
    matcher = model.group_matcher()
    stem_or_block = re.compile(f"{matcher['stem']}|{matcher['blocks']}")
    unmatched = [n for n, _ in model.named_parameters() if not stem_or_block.match(n)]
    assert unmatched == ["fc.weight", "fc.bias"]
    groups = timm.models.group_parameters(model, matcher)
    assert sum(len(names) for names in groups.values()) == len(list(model.parameters()))
    assert len(groups) == 1 + 9 + 1  # stem, blocks, head


def test_gradient_checkpointing_changes_nothing():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    model = small(dtype=torch.float64).eval()  # eval: the norms would update twice
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        gradients.append(model.layer2[0].conv1.weight.grad.clone())
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-12, atol=1e-12)


def test_drop_path_grows_linearly():
    model = small(drop_path_rate=0.4)
    rates = [block.drop_path.drop_prob for block in model.layer3 if block.drop_path is not None]
    assert rates == pytest.approx([0.4 * i / 8 for i in (6, 7, 8)])
    assert model.layer1[0].drop_path is None


def test_other_activation_and_norm():
    model = small(act_layer="silu", norm_layer="groupnorm1")
    assert isinstance(model.act1, nn.SiLU)
    assert isinstance(model.layer1[0].bn1, nn.GroupNorm)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_entry_points_are_exported():
    assert {f"cpt_resnet{d}" for d in DEPTHS} <= set(cifar_resnet.__all__)
