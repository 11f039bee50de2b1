"""A saved search, looked at before anything is changed for it."""

from __future__ import annotations

from torch import Tensor

from cpt_nas.gates.gated_model import GatedModel, slot_of
from cpt_nas.pruning.search_space import group_key
from cpt_nas.pruning.structure import Structure, load_structure

KEYS = {
    *("structure", "gates", "steps", "frozen", "generator", "rule", "forced"),
    *("undecided_at_freeze", "trace", "removed", "start"),
}
"""Of a search's state."""


def saved_structure(state: object, dense: Structure, gated: GatedModel) -> Structure:
    """What was left of the network when the state was saved.

    Args:
        dense: the uncut model's structure.
        gated: the fresh search's.

    Raises:
        ValueError: it is no search's state, or another model's or search's.
    """
    lacking = sorted(KEYS - state.keys()) if isinstance(state, dict) else sorted(KEYS)
    if lacking or not isinstance(state, dict):
        raise ValueError(f"checkpoint: it is no state of a search: {lacking[0]!r} is missing")
    structure = load_structure(state["structure"])
    if _sizes(structure) != _sizes(dense):
        raise ValueError("checkpoint: its structure is of another model")
    sizes = {} if state["frozen"] else gate_sizes(structure, gated)
    for slot, size in sizes.items():
        theta = state["gates"].get(f"{slot}.theta")
        if not isinstance(theta, Tensor) or theta.shape != (size,):
            raise ValueError(f"checkpoint: gates: {slot} must hold {size} thetas, as is left of it")
    return structure


def gate_sizes(structure: Structure, gated: GatedModel) -> dict[str, int]:
    """Slot -> units of every gate that there is at a structure."""
    sizes: dict[str, int] = {}
    for name, branch in structure.branches.items():
        if branch.kept:
            units = {group_key(name, g): len(u.kept) for g, u in branch.units.items()}
            sizes |= {slot_of(key): n for key, n in ({name: 1} | units).items()}
    return {slot: size for slot, size in sizes.items() if slot in gated.gates}


def _sizes(structure: Structure) -> dict[str, dict[str, int]]:
    return {
        name: {group: units.total for group, units in branch.units.items()}
        for name, branch in structure.branches.items()
    }
