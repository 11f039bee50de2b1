"""What stands where branches are gone is a module as any other: pickled, copied, compiled."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import cpt_nas
from cpt_nas.adapters.remainder import remainder_of
from cpt_nas.pruning.search_space import find_branches
from cpt_nas.pruning.structure import cut_to, dense_structure
from tests.support.families import FAMILIES
from tests.support.networks import randomize_all


def without_every_second_branch(family: str, first: int = 0) -> tuple[nn.Module, torch.Tensor]:
    """In eval mode, and an input."""
    name, kwargs, size = FAMILIES[family]
    torch.manual_seed(0)
    model = randomize_all(timm.create_model(name, **{"num_classes": 5, **kwargs})).eval()
    space = find_branches(model)
    structure = dense_structure(space, name, {})
    for item in [b for b in space.branches if b.branch.remove][first::2]:
        branch = structure.branches[item.name]
        branch.kept = False
        for units in branch.units.values():
            units.kept = []
    return cut_to(model, structure), torch.randn(2, 3, size, size)


# By what their blocks do: arguments, methods, scales, functions; another class in their place.
PICKLED = ["vit", "swin", "xcit", "mixer", "dla"]


def test_another_process_loads_a_whole_model(tmp_path: Path) -> None:
    """It imports nothing before it loads."""
    for family in PICKLED:
        model, x = without_every_second_branch(family)
        with torch.no_grad():
            torch.save((model, x, model(x)), tmp_path / f"{family}.pth")
    code = (
        "import sys, torch, pathlib\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).glob('*.pth')):\n"
        "    model, x, wanted = torch.load(path, weights_only=False)\n"
        "    assert torch.allclose(model(x), wanted, atol=1e-5), path\n"
        "    print(path.stem)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=Path.cwd()
    )
    assert done.returncode == 0, done.stderr[-600:]
    assert done.stdout.split() == sorted(PICKLED)


@pytest.mark.parametrize("family", PICKLED)
def test_a_copy_stands_on_its_own(family: str) -> None:
    model, x = without_every_second_branch(family, first=1)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x), model(x))
    for parameter in model.parameters():
        parameter.data.zero_()
    assert not torch.equal(twin(x), model(x))
    assert {type(m) for m in twin.modules()} == {type(m) for m in model.modules()}


@pytest.mark.parametrize("family", ["vit", "swin", "xcit", "eva02", "mixer", "coatnet"])
def test_it_is_scripted_where_timms_own_is(family: str) -> None:
    model, x = without_every_second_branch(family)
    with torch.no_grad():
        scripted = torch.jit.script(copy.deepcopy(model))
        assert torch.allclose(scripted(x), model(x), atol=1e-4)


def test_the_block_is_still_timms_and_says_what_is_left() -> None:
    model, _ = without_every_second_branch("vit")
    block = model.blocks[0]
    assert isinstance(block, timm.models.vision_transformer.Block)
    assert type(block).__name__ == "CutBlock"
    left = remainder_of(block)
    assert left is not None and [c.names[1] for c in left.chains] == ["mlp"]
    again, _ = without_every_second_branch("vit")
    assert type(again.blocks[0]) is type(block)


def test_both_branches_may_go_one_after_the_other() -> None:
    name, kwargs, size = FAMILIES["xcit"]
    x = torch.randn(1, 3, size, size)
    search = cpt_nas.attach(timm.create_model(name, **kwargs), x)
    for branch in ("attn", "mlp", "local_mp"):
        search.gated.gate(f"blocks.0.{branch}").theta.data.fill_(0.0)
        search.cut(None)
    model = search.finish().eval()
    assert not list(model.blocks[0].parameters())
    assert model(x).isfinite().all()
