"""What is uploaded: the archives' contents, and the wheel at work where there is no checkout."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.packaging.environments import ROOT, Built, Environment, build, quick_start

pytestmark = pytest.mark.slow

RECIPES = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "cpt_nas" / "recipes").rglob("*.yaml")
)
PROFILES = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "hwprofiles" / "profiles").glob("*.yaml")
)
DATA = [*RECIPES, *PROFILES, "cpt_nas/py.typed", "hwprofiles/py.typed"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("fresh") / "venv")
    environment.install("--no-deps", "--no-index", built.wheel)
    environment.borrow()
    return environment


def test_the_data_is_where_it_is_looked_for() -> None:
    assert "cpt_nas/recipes/digits.yaml" in RECIPES
    assert any(path.startswith("cpt_nas/recipes/smoke/") for path in RECIPES)
    assert PROFILES


def test_sdist_has_license_and_data(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", *DATA} <= names


def test_wheel_has_license_data_and_both_packages_only(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (n for n in names if n.endswith(".dist-info/METADATA"))
        headers = archive.read(metadata).decode().partition("\n\n")[0]
    info = Path(metadata).parent.name
    assert {f"{info}/licenses/LICENSE", *DATA} <= names
    assert {name.partition("/")[0] for name in names} == {"cpt_nas", "hwprofiles", info}
    assert "\nLicense-Expression: Apache-2.0" in headers


def test_wheel_has_every_module_of_the_checkout(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
    modules = {
        str(path.relative_to(ROOT))
        for package in ("cpt_nas", "hwprofiles")
        for path in (ROOT / package).rglob("*.py")
    }
    assert modules <= names


@pytest.mark.parametrize("package", ["cpt_nas", "hwprofiles"])
def test_wheel_is_what_is_imported(installed: Environment, package: str, tmp_path: Path) -> None:
    file = Path(installed.python(f"import {package}; print({package}.__file__)", tmp_path))
    assert file.is_relative_to(installed.folder)


def test_wheel_has_one_version(installed: Environment, tmp_path: Path) -> None:
    code = (
        "from importlib.metadata import version; import cpt_nas, hwprofiles;"
        "print(version('cpt-nas'), cpt_nas.__version__, hwprofiles.__version__)"
    )
    assert len(set(installed.python(code, tmp_path).split())) == 1


def test_quick_start(installed: Environment, tmp_path: Path) -> None:
    quick_start(installed, tmp_path)
