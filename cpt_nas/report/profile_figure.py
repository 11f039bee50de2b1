"""A profile's figure: predicted against measured latency of networks nobody measured for it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from cpt_nas.report.axes import COLORS, literal
from hwprofiles.schema_validation import ValidatedNetwork, Validation

DESCRIPTION = "cpt-nas: a profile's predicted against measured latency"
"""What an image says of itself, so that no other is taken for one and replaced."""


def validation_figure(validation: Validation, setting: str) -> Figure:
    """Predicted against measured latency, and the relative error, a point a network.

    Args:
        validation: of one model.
        setting: in words, for the title.
    """
    figure = Figure(figsize=(9.0, 4.2), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    cut = [n for n in validation.networks if n.label != "dense"]
    kinds = (
        ("at the channel divisor", [n for n in cut if n.aligned], "o", COLORS[0]),
        ("off the channel divisor", [n for n in cut if not n.aligned], "^", COLORS[1]),
        ("dense", [n for n in validation.networks if n.label == "dense"], "s", COLORS[6]),
    )
    highest = 1e3 * max(max(n.predicted_s, n.measured_s) for n in validation.networks) * 1.05
    ends = np.array([0.0, highest])
    left.fill_between(ends, ends * 0.9, ends * 1.1, color="#eeeeee", lw=0, label="within 10 %")
    left.plot(ends, ends, color="#999999", lw=1)
    right.axhspan(-10, 10, color="#eeeeee", lw=0)
    if validation.noise_floor is not None:
        floor = 100 * validation.noise_floor
        right.axhspan(-floor, floor, color="#cccccc", lw=0, label="noise floor")
    right.axhline(0, color="#999999", lw=1)
    for label, networks, marker, color in kinds:
        if not networks:
            continue
        measured = [1e3 * n.measured_s for n in networks]
        style = {"marker": marker, "color": color, "s": 22, "label": label, "lw": 0}
        left.scatter(measured, [1e3 * n.predicted_s for n in networks], **style)
        right.scatter(measured, [100 * _error(n) for n in networks], **style)
    left.set(xlim=(0, highest), ylim=(0, highest), ylabel="predicted, ms")
    right.set(xlim=(0, highest), ylabel="predicted / measured - 1, %")
    for ax in (left, right):
        ax.set_xlabel("measured, ms")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=8)
    s = validation.aligned
    figure.suptitle(
        f"{literal(validation.model)}, {literal(setting)}: mean error {100 * s.mape:.1f} %, "
        f"Kendall tau {s.kendall_tau:.2f} ({s.n} networks at the channel divisor)",
        fontsize=10,
    )
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG; either all of it or nothing."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        figure.savefig(temporary, format="png", metadata={"Description": DESCRIPTION})
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def is_figure(path: Path) -> bool:
    """Whether a file is one that :func:`save_figure` has written."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.load()
            return image.info.get("Description") == DESCRIPTION
    except (OSError, SyntaxError):  # Pillow's for a broken PNG
        return False


def _error(network: ValidatedNetwork) -> float:
    return network.predicted_s / network.measured_s - 1
