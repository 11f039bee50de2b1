"""A profile's layers as a pandas table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple

import pandas as pd

from hwprofiles.layers import Coefficients
from hwprofiles.schema import Alone, LayerProfile

COEFFICIENTS = ("const_s", "per_in_s", "per_out_s", "per_in_out_s")


def layer_table(
    layers: Sequence[LayerProfile], cost: Callable[[str], Coefficients]
) -> pd.DataFrame:
    """A row a layer; the columns are those of ``Profile.to_frame``.

    Args:
        layers: in the order of the rows.
        cost: signature -> what such a layer adds to a network.
    """
    return pd.DataFrame(
        [
            {
                "signature": layer.signature,
                "type": layer.type,
                "form": layer.form,
                "runs": sum(layer.count.values()),
                "macs": layer.macs,
                "params": layer.params,
                "activation_bytes": layer.activation_bytes,
                **_alone_columns(layer.alone),
                **dict(zip(COEFFICIENTS, astuple(cost(layer.signature)), strict=True)),
            }
            for layer in layers
        ]
    )


def _alone_columns(alone: Alone | None) -> dict[str, float]:
    if alone is None:
        return dict.fromkeys(
            ("dense_s", "q25_s", "q75_s", "spread", "n", "fit_error"), float("nan")
        )
    return {
        "dense_s": alone.dense.median_s,
        "q25_s": alone.dense.q25_s,
        "q75_s": alone.dense.q75_s,
        "spread": alone.dense.spread,
        "n": alone.dense.n,
        "fit_error": alone.fit_error,
    }
