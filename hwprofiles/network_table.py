"""A profile's uncut networks as a pandas table."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from hwprofiles.schema import EndToEnd

NAN = float("nan")
FACTS = ("p90_s", "p99_s", "calls", "first_call_s", "load_s", "file_bytes")


def network_table(dense: Mapping[str, EndToEnd]) -> pd.DataFrame:
    """A row an uncut network; the columns are those of ``Profile.to_frame("networks")``."""
    return pd.DataFrame(
        [
            {
                "model": model,
                "median_s": d.median_s,
                "q25_s": d.q25_s,
                "q75_s": d.q75_s,
                "n": d.n,
                **{fact: _number(getattr(d, fact)) for fact in FACTS},
                "peak_bytes": _number(d.memory.peak_measured_bytes),
                "peak_analytic_bytes": d.memory.peak_analytic_bytes,
                "parameter_bytes": d.memory.parameter_bytes,
                "macs": d.macs,
                "params": d.params,
                "fused": NAN if d.fused is None else len(d.fused),
            }
            for model, d in dense.items()
        ]
    )


def _number(value: float | None) -> float:
    return NAN if value is None else value
