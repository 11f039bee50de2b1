"""The lower bounds of pyproject.toml: all of them at once, and what a user does first.

Downloads two or three GB, unless pip has them in its cache.
"""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.packaging.environments import ROOT, Environment, build, quick_start

pytestmark = pytest.mark.slow

# What needs to be there to run tests; the rest of the dev extra has no part in a user's life.
TEST_TOOLS = {"pytest", "hypothesis"}
# Convolutions, grouped ones, depthwise ones, attention, windows: timm's own names.
FAMILIES: dict[str, dict[str, Any]] = {
    "resnet10t": {},
    "regnetx_002": {},
    "mobilenetv3_small_050": {},
    "convnext_atto": {},
    "vit_tiny_patch16_224": {"img_size": 64, "depth": 2},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 2, "embed_dim": 24},
}
# What pip says where no index can be reached; any other failure is the bounds'.
NO_INDEX = ("NameResolutionError", "NewConnectionError", "ConnectTimeoutError", "ProxyError")


def project() -> dict[str, Any]:
    metadata: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return metadata


def lowest(requirement: str) -> str:
    """name>=x -> name==x"""
    wanted = Requirement(requirement)
    bounds = [s.version for s in wanted.specifier if s.operator in (">=", "==")]
    assert len(bounds) == 1, f"{requirement}: no lower bound"
    return f"{wanted.name}=={bounds[0]}"


def pins() -> list[str]:
    metadata = project()
    extras = metadata["optional-dependencies"]
    tools = [text for text in extras["dev"] if Requirement(text).name in TEST_TOOLS]
    return [lowest(text) for text in (*metadata["dependencies"], *extras["train"], *tools)]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    folder = tmp_path_factory.mktemp("lowest")
    wheel = build(folder).wheel
    made = Environment(folder / "venv")
    try:
        made.install(*pins(), limit=1800)
    except AssertionError as failure:
        if any(words in str(failure) for words in NO_INDEX):
            pytest.skip("no package index can be reached")
        raise
    made.install("--no-deps", "--no-index", wheel)
    yield made
    shutil.rmtree(made.folder)  # five GB


def test_the_set_is_the_lowest_and_consistent(environment: Environment) -> None:
    names = [pin.partition("==")[0] for pin in pins()]
    code = f"import importlib.metadata as m; print(*(m.version(n) for n in {names}))"
    found = [Version(text) for text in environment.python(code).split()]
    assert found == [Version(pin.partition("==")[2]) for pin in pins()]
    environment.check()


def test_quick_start(environment: Environment, tmp_path: Path) -> None:
    quick_start(environment, tmp_path)


@pytest.mark.parametrize("name", FAMILIES)
def test_family(environment: Environment, name: str, tmp_path: Path) -> None:
    """The suite's own networks hold blocks of the newest timm only; these are timm's."""
    said = environment.python(SEARCH.format(name=name, kwargs=FAMILIES[name]), tmp_path)
    dense, cut = said.splitlines()[-1].split()
    assert 0 < int(cut) < int(dense)


SEARCH = """
import timm, torch
import cpt_nas
from cpt_nas.pruning.export import export

def size(model):
    return sum(p.numel() for p in model.parameters())

torch.manual_seed(0)
kwargs = dict({kwargs}, num_classes=5)
model = timm.create_model("{name}", **kwargs)
dense = size(model)
x, y = torch.randn(8, 3, 64, 64), torch.arange(8) % 5
optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
search = cpt_nas.attach(model, x[:1], macs_budget=0.8, total_steps=20, model_kwargs=kwargs)
for _ in range(20):
    loss = torch.nn.functional.cross_entropy(model(x), y) + search.penalty()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    search.step(optimizer)
model = search.finish(optimizer).eval()
export(search.structure(), model.state_dict(), "model", input_size=[3, 64, 64])
back = timm.create_model("local-dir:model", pretrained=True).eval()
assert type(back) is type(model)
assert torch.allclose(back(x), model(x), atol=1e-5)
print(dense, size(back))
"""
