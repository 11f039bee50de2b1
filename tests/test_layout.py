"""Imports run one way, without a circle; type-only imports count. No file is too long."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("hwprofiles", "cpt_nas")
LONGEST = 400  # lines

# A room may import from itself and from rooms on lower floors, never from one beside or above it.
FLOORS = (
    {"hwprofiles"},
    {"sections", "adapters"},
    {"pruning", "data"},
    {"models", "costs", "pretrained"},
    {"gates"},
    {"search", "calibration"},
    {"train"},
    {"deploy"},
    {"report"},
    {"cli"},
    {"__init__", "__main__"},
)


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def module_of(path: Path, root: Path = ROOT) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, known: set[str]) -> Iterator[str]:
    """The modules among ``known`` that a file imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                target = submodule if submodule in known else node.module
                if target in known:
                    yield target


def graph(root: Path = ROOT, packages: tuple[str, ...] = PACKAGES) -> dict[str, set[str]]:
    """Module -> the modules of these packages that it imports."""
    files = {
        module_of(path, root): path
        for package in packages
        for path in sorted((root / package).rglob("*.py"))
    }
    return {
        module: set(imported(ast.parse(path.read_text()), set(files))) - {module}
        for module, path in files.items()
    }


def room(module: str) -> str:
    package, *rest = module.split(".")
    if package == "hwprofiles":
        return package
    return rest[0] if rest else "__init__"


def backward(edges: dict[str, set[str]]) -> list[str]:
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    return [
        f"{module} imports {target}"
        for module, targets in edges.items()
        for target in targets
        if room(module) != room(target) and floor[room(target)] >= floor[room(module)]
    ]


def circle(edges: dict[str, set[str]]) -> list[str]:
    """The modules of one circle, or none.

    A package's ``__init__`` gathers what is below it, so what imports a package itself from inside
    it is a circle, too.
    """
    done: set[str] = set()

    def follow(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in sorted(edges[module]):
            if found := follow(target, [*path, module]):
                return found
        done.add(module)
        return []

    for module in sorted(edges):
        if found := follow(module, []):
            return found
    return []


def test_every_room_has_a_floor() -> None:
    floors = {name for names in FLOORS for name in names}
    assert {room(module) for module in graph()} <= floors


def test_imports_run_one_way() -> None:
    assert backward(graph()) == []


def test_there_is_no_circle() -> None:
    assert circle(graph()) == []


def test_hwprofiles_does_not_know_cpt_nas() -> None:
    for path in sorted((ROOT / "hwprofiles").rglob("*.py")):
        text = path.read_text()
        assert "cpt_nas" not in text and "cpt-nas" not in text, path


@pytest.mark.parametrize("path", sources(), ids=lambda path: module_of(path))
def test_no_file_is_too_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


def test_a_backward_import_and_a_circle_are_seen(tmp_path: Path) -> None:
    """Type-only imports and imports inside functions count."""
    files = {
        "cpt_nas/__init__.py": "",
        "cpt_nas/gates/__init__.py": "",
        "cpt_nas/gates/a.py": "if TYPE_CHECKING:\n    from cpt_nas.search import b\n",
        "cpt_nas/search/__init__.py": "",
        "cpt_nas/search/b.py": "def f():\n    from cpt_nas.gates.a import x\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    edges = graph(tmp_path, ("cpt_nas",))
    assert backward(edges) == ["cpt_nas.gates.a imports cpt_nas.search.b"]
    assert set(circle(edges)) == {"cpt_nas.gates.a", "cpt_nas.search.b"}
