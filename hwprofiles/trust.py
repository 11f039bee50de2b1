"""How far a profile can be trusted: what makes it no profile at all, and what to say of the others.

A network takes about as long as its layers one after the other. Where their sum is far from it,
something else was measured: layers at the wrong sizes, a machine that was busy half of the time, or
a clock that stands still. Such a profile is refused, however well its readings agree.
"""

from __future__ import annotations

from collections.abc import Mapping

from hwprofiles.schema import Calibration, Created, EndToEnd, Protocol, Validation

# The layers' sum over the network's time, and the calibration's scale: refused outside.
POSSIBLE = (0.5, 2.0)
# And doubtful outside; good profiles stay well within.
LIKELY = (0.75, 1.33)
# What the calibration multiplies a form's layers by, on top of the scale; doubtful outside.
FACTORS = (0.5, 2.0)
# Mean relative error on networks that the profile had not seen; doubtful above it.
MAX_ERROR = 0.10


def impossible(calibration: Calibration, dense: Mapping[str, EndToEnd]) -> str | None:
    """Why layers and networks cannot have been measured in one setting; None: they can."""
    low, high = POSSIBLE
    for model, whole in dense.items():
        if not low <= whole.explained <= high:
            return (
                f"the layers of {model} sum to {whole.explained:.3g} of the network's time, "
                f"allowed is {low:g} to {high:g}"
            )
    if not low <= calibration.scale <= high:
        return (
            f"networks take {calibration.scale:.3g} times the sum of their layers "
            f"(calibration.scale), allowed is {low:g} to {high:g}"
        )
    return None


def doubts(
    created: Created,
    protocol: Protocol,
    calibration: Calibration,
    dense: Mapping[str, EndToEnd],
    validation: list[Validation],
) -> list[str]:
    """What a user of the profile has to know, a clause each; empty: nothing."""
    found = []
    if created.edited:
        found.append("it was edited by hand")
    if protocol.verdict == "noisy":
        contention = "not seen" if protocol.contention is None else f"{protocol.contention:.2f}"
        found.append(
            f"its times are noisy (spread {protocol.spread:.1%}, anchor "
            f"{protocol.anchor.spread:.1%}, contention {contention})"
        )
    if calibration.verdict == "noisy":
        drift = "" if calibration.drift is None else f" (drift {calibration.drift:.1%})"
        found.append(f"its calibration is noisy{drift}")
    for form, factor in calibration.by_form.items():
        if not FACTORS[0] <= factor <= FACTORS[1]:
            found.append(f"its calibration multiplies {form} layers by {factor:.2f}")
    low, high = LIKELY
    for model, whole in dense.items():
        if not low <= whole.explained <= high:
            found.append(f"the layers of {model} sum to {whole.explained:.1%} of its time")
    for v in validation:
        if v.aligned.mape > MAX_ERROR:
            found.append(f"it was off by {v.aligned.mape:.1%} on unseen networks of {v.model}")
    return found
