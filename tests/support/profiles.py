"""Profiles with made-up coefficients: every layer costs something in every term it can have."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import nn

import hwprofiles
from hwprofiles import Profile
from hwprofiles.device import Fingerprint, fingerprint
from hwprofiles.runtimes import find_runtime
from hwprofiles.runtimes.base import Setting

LATENCY = {"median_s": 1e-3, "q25_s": 1e-3, "q75_s": 1e-3, "n": 10}


def eager_fingerprint() -> Fingerprint:
    """This machine's, in eager mode."""
    setting = Setting(torch.device("cpu"), torch.float32, 1, channels_last=False)
    return fingerprint("cpu", find_runtime("eager").fingerprint(setting))


def synthetic_profile(
    model: nn.Module,
    name: str = "made_up",
    input_size: tuple[int, int, int] = (3, 32, 32),
    channel_divisor: int = 1,
    calibration: dict[str, Any] | None = None,
) -> Profile:
    """A profile of one model on this machine; no time in it was measured."""
    example = torch.zeros(1, *input_size, dtype=next(model.parameters()).dtype)
    layers = {x.signature: x for x in hwprofiles.trace(model, example)}
    memory = {"parameter_bytes": 0, "activation_bytes": 0, "peak_analytic_bytes": 0}
    whole = {"p90_s": 1e-3, "p99_s": 1e-3, "sum_of_layers_s": 1e-3, "explained": 1.0, "macs": 0}
    whole |= {"params": 0, "calibrated_error": 0, "unattributed_ops": []}
    whole |= {"memory": memory | {"peak_measured_bytes": None}}
    shares = {"share_layers": 0, "share_macs": 0.5, "share_params": 0.5, "fit_error": 0}
    per_unit = {"seconds_per_layer": 0, "seconds_per_mac": 0, "seconds_per_param_byte": 0}
    return hwprofiles.profile_file.parse(
        {
            "name": name,
            "created": {
                **{"utc": "2026-01-01T00:00:00+00:00", "tool_version": "0", "command": ""},
                **{"seed": 0, "wall_s": 0},
            },
            "fingerprint": eager_fingerprint().model_dump(),
            "workload": {
                **{"device": "cpu", "models": [name], "input_size": input_size},
                **{"batch_size": 1, "dtype": "float32", "threads": 1, "channels_last": False},
                "runtime": "eager",
                "keeps_freed_memory": False,
            },
            "protocol": {
                **{"timer": "none", "rounds": 10, "warm_up_s": 0, "cache": "none"},
                **{"statistic": "none", "load_average": 0, "spread": 0, "verdict": "ok"},
                "contention": None,
                "anchor": {
                    **{"first_s": 1e-4, "last_s": 1e-4, "spread": 0},
                    **{"exponent": 1.0, "reference_s": 1e-4},
                },
            },
            "units": {"time": "s", "memory": "byte", "macs": "1 per multiply-add"},
            "weights": {"kappa": 0.5, "alpha": 0.5, **shares, **per_unit},
            "cost_model": {
                "form": "a + b*Cin + c*Cout + d*Cin*Cout; one-channel layers a + b*C",
                "loss": "relative squared error, coefficients not negative",
                "channel_divisor": {"value": channel_divisor, "sweeps": []},
                "calibration": calibration or {"scale": 1.0, "n": 1},
            },
            "layers": [_layer(x, name) for x in layers.values()],
            "dense": {name: LATENCY | whole},
        }
    )


def _layer(x: hwprofiles.LayerSpec, model: str) -> dict[str, Any]:
    rng = random.Random(x.signature)
    dense = x.form == "dense"
    return {
        **{"signature": x.signature, "type": x.type, "form": x.form, "count": {model: 1}},
        **{"in_channels": x.in_channels, "out_channels": x.out_channels},
        **{"macs": x.macs, "params": x.params, "activation_bytes": x.activation_bytes},
        "fit_range": {"in_channels": (1, x.in_channels), "out_channels": (1, x.out_channels)},
        "alone": {
            "coefficients": {
                "const_s": rng.uniform(1e-6, 5e-6),
                "per_in_s": rng.uniform(1e-8, 1e-7) if dense or x.scalable else 0,
                "per_out_s": rng.uniform(1e-8, 1e-7) if dense else 0,
                "per_in_out_s": rng.uniform(1e-9, 1e-8) if dense else 0,
            },
            "fit_error": 0,
            "dense": LATENCY,
            "samples": [LATENCY | {"in_channels": 1, "out_channels": 1}],
        },
    }
