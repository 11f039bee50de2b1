"""A saved search, looked at before anything is changed for it."""

from __future__ import annotations

from cpt_nas.pruning.structure import Structure, load_structure

KEYS = {
    *("structure", "gates", "steps", "frozen", "generator", "rule", "forced"),
    *("undecided_at_freeze", "trace", "removed", "start"),
}
"""Of a search's state."""


def saved_structure(state: object, dense: Structure) -> Structure:
    """What was left of the network when the state was saved.

    Args:
        dense: the uncut model's structure.

    Raises:
        ValueError: it is no search's state, or another model's.
    """
    lacking = sorted(KEYS - state.keys()) if isinstance(state, dict) else sorted(KEYS)
    if lacking or not isinstance(state, dict):
        raise ValueError(f"checkpoint: it is no state of a search: {lacking[0]!r} is missing")
    structure = load_structure(state["structure"])
    if _sizes(structure) != _sizes(dense):
        raise ValueError("checkpoint: its structure is of another model")
    return structure


def _sizes(structure: Structure) -> dict[str, dict[str, int]]:
    return {
        name: {group: units.total for group, units in branch.units.items()}
        for name, branch in structure.branches.items()
    }
