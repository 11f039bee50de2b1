"""How far a profile can be trusted: what makes it no profile at all, and what to say of the others.

A network takes about as long as its layers one after the other. Where their sum is far from it,
something else was measured: layers at the wrong sizes, a machine that was busy half of the time, or
a clock that stands still. Such a profile is refused, however well its readings agree.
"""

from __future__ import annotations

from collections.abc import Mapping

from hwprofiles.schema import Calibration, Created, EndToEnd, Protocol, Workload
from hwprofiles.schema_validation import Validation

# The layers' sum over the network's time, and the calibration's scale: refused outside.
POSSIBLE = (0.5, 2.0)
# And doubtful outside; good profiles stay well within.
LIKELY = (0.75, 1.33)
# Mean relative error on networks that the profile had not seen; doubtful above it.
MAX_ERROR = 0.10


def impossible(
    workload: Workload, calibration: Calibration, dense: Mapping[str, EndToEnd]
) -> str | None:
    """Why layers and networks cannot have been measured in one setting; None: they can.

    Layers alone are timed in eager mode, which says nothing about networks in another runtime.
    """
    low, high = POSSIBLE
    for model, whole in dense.items():
        if whole.explained is not None and not low <= whole.explained <= high:
            return (
                f"the layers of {model} sum to {whole.explained:.3g} of the network's time, "
                f"allowed is {low:g} to {high:g}"
            )
        if not low <= 1 + whole.calibrated_error <= high:
            return (
                f"it predicts {1 + whole.calibrated_error:.3g} times what {model} took, allowed is "
                f"{low:g} to {high:g}"
            )
    scale = calibration.scale if workload.runtime == "eager" else None
    if scale is not None and not low <= scale <= high:
        return (
            f"networks take {scale:.3g} times the sum of their layers "
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
        anchor = protocol.anchor
        drift = "none" if anchor is None else f"{anchor.spread:.1%}"
        found.append(
            f"its times are noisy (spread {protocol.spread:.1%}, anchor {drift}, contention "
            f"{contention})"
        )
    if calibration.verdict == "noisy":
        drift = "" if calibration.drift is None else f" (drift {calibration.drift:.1%})"
        found.append(f"its calibration is noisy{drift}")
    if calibration.left_out_error is None:
        found.append("it was not fitted to cut networks")
    elif calibration.left_out_error > MAX_ERROR:
        found.append(f"its fit is off by {calibration.left_out_error:.1%} on networks left out")
    low, high = LIKELY
    for model, whole in dense.items():
        if whole.explained is not None and not low <= whole.explained <= high:
            found.append(f"the layers of {model} sum to {whole.explained:.1%} of its time")
    for v in validation:
        if v.aligned.mape > MAX_ERROR:
            found.append(f"it was off by {v.aligned.mape:.1%} on unseen networks of {v.model}")
    return found
