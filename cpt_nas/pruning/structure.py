"""Structure: which branches and units are left, enough to rebuild the network from its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import nn

from cpt_nas.pruning import surgery
from cpt_nas.pruning.arguments import fits_json, refuse_loading, refuse_strange_name
from cpt_nas.pruning.search_space import SearchSpace, find_branches
from hwprofiles.files import write_whole

SCHEMA = 1


_EXACT = ConfigDict(extra="forbid", strict=True)


class Units(BaseModel):
    """One unit group: how many there were, which are left (indices of the uncut group)."""

    model_config = _EXACT
    total: int = Field(gt=0)
    kept: list[int]

    @model_validator(mode="after")
    def _in_range(self) -> Units:
        if sorted(set(self.kept)) != self.kept or not all(0 <= u < self.total for u in self.kept):
            raise ValueError(f"kept must be increasing indices below {self.total}")
        return self


class BranchStructure(BaseModel):
    """One branch: whether it is left, and its unit groups by name."""

    model_config = _EXACT
    kept: bool
    removable: bool = True
    units: dict[str, Units] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _kept_with_units(self) -> BranchStructure:
        for name, units in self.units.items():
            if self.kept and not units.kept:
                raise ValueError(f"a branch that is kept has no unit left of {name!r}")
            if not self.kept and units.kept:
                raise ValueError(f"a branch that is gone has units left of {name!r}")
        return self


class Structure(BaseModel):
    """What is left of ``timm.create_model(architecture, **model_kwargs)``.

    Attributes:
        schema_version: of the file.
        architecture: timm's name of the uncut network; '' where it has none.
        model_kwargs: its keyword arguments: numbers, strings, lists.
        differs: how the network that was searched differs from that; '' where it does not. Then
            it is not rebuilt from the name, but cut from the network itself (:func:`cut_to`).
        branches: what is left, every branch of the network by name.
    """

    model_config = _EXACT
    schema_version: int = Field(default=SCHEMA, ge=1, le=SCHEMA)
    architecture: str
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    differs: str = ""
    branches: dict[str, BranchStructure]

    @model_validator(mode="after")
    def _only_what_it_is(self) -> Structure:
        refuse_loading("model_kwargs", self.model_kwargs)
        if not fits_json(self.model_kwargs):
            raise ValueError("model_kwargs: must be numbers, strings, lists and mappings")
        return self

    def require_rebuildable(self) -> None:
        """Raise where the network is not made from its name and arguments alone.

        Raises:
            ValueError: says how it differs.
        """
        if self.differs or not self.architecture:
            why = self.differs or "it names no architecture"
            raise ValueError(
                f"structure: {why}; only its state_dict and structure can be saved. "
                "cpt_nas.cut_to(model, structure) cuts a network of one's own"
            )
        refuse_strange_name("structure: architecture", self.architecture)

    def __repr__(self) -> str:
        total = [u.total for b in self.branches.values() for u in b.units.values()]
        removed = [name for name, b in self.branches.items() if not b.kept]
        some = ", ".join(removed[:4]) + (", ..." if len(removed) > 4 else "")
        return (
            f"Structure of {self.architecture or 'a model without a name in timm'}\n"
            f"  left: {self.branches_left} of {len(self.branches)} branches,"
            f" {self.units_left} of {sum(total)} units\n"
            f"  removed: {some or 'no branch'}"
        )

    __str__ = __repr__

    @property
    def branches_left(self) -> int:
        return sum(b.kept for b in self.branches.values())

    @property
    def units_left(self) -> int:
        live = [b for b in self.branches.values() if b.kept]
        return sum(len(u.kept) for b in live for u in b.units.values())

    def save(self, path: str | Path) -> None:
        write_whole(Path(path), json.dumps(self.model_dump(), indent=1) + "\n")


def load_structure(source: str | Path | dict[str, Any]) -> Structure:
    """Read a structure from a JSON file, or from a mapping.

    Raises:
        ValueError: the file is missing or is not a structure; says which field is wrong.
    """
    name = "structure"
    try:
        if not isinstance(source, dict):
            name = str(source)
            source = json.loads(Path(source).read_text())
        return Structure.model_validate(source)
    except FileNotFoundError:
        raise ValueError(f"structure: no such file: {name}") from None
    except OSError as error:
        raise ValueError(f"structure: {name} cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"structure: {name} is not JSON: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        where = f"{field}: " if field else ""
        raise ValueError(f"structure: {name}: {where}{first['msg'][:200]}") from None


def dense_structure(
    space: SearchSpace, architecture: str, model_kwargs: dict[str, Any]
) -> Structure:
    """The structure of an uncut model, whose whole search space this is: everything is left."""
    branches = {}
    for found in space.branches:
        units = {g.name: Units(total=g.size, kept=list(range(g.size))) for g in found.branch.groups}
        removable = found.branch.remove is not None
        branches[found.name] = BranchStructure(kept=True, removable=removable, units=units)
    return Structure(architecture=architecture, model_kwargs=model_kwargs, branches=branches)


def cut_to(model: nn.Module, structure: Structure) -> nn.Module:
    """Cut an uncut model to ``structure``, in place; returns it.

    Raises:
        ValueError: the structure is of another model: a branch or group that is not there, that is
            not named, or of another size.
    """
    found = find_branches(model).by_name
    for name in (*structure.branches, *found):
        if name not in found or name not in structure.branches:
            where = f"in this {type(model).__name__}" if name not in found else "named"
            raise ValueError(f"structure: branches: {name!r} is not {where}")
    plan = surgery.Plan()
    for name, wanted in structure.branches.items():
        block, branch = found[name].block, found[name].branch
        sizes = {g.name: g.size for g in branch.groups}
        if sizes != {g: u.total for g, u in wanted.units.items()}:
            raise ValueError(f"structure: branches.{name}: units differ from the model's {sizes}")
        if not wanted.kept:
            if branch.remove is None:
                raise ValueError(f"structure: branches.{name}: cannot be removed: {branch.reason}")
            plan.removed.setdefault(block, []).append(branch)
            continue
        fewer = {g: torch.tensor(u.kept) for g, u in wanted.units.items() if len(u.kept) < u.total}
        surgery.plan_units(plan, block, branch, fewer)
    surgery.apply(plan, model)
    return model
