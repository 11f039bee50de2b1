"""A profile of a device that only told how long a kit's networks take.

Nothing but whole networks was timed, so no layer has a time of its own, and the machine is known by
what the table's first lines say of it.
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import timm
import torch

import hwprofiles
from cpt_nas.calibration.kit import Manifest, read_manifest
from cpt_nas.calibration.kit_table import Row, Times, read_times
from cpt_nas.calibration.random_structures import candidate
from cpt_nas.costs.cost_model import build_cost
from cpt_nas.costs.terms import PARAMETER
from cpt_nas.pruning.search_space import find_branches
from hwprofiles import Candidate, LayerSpec, Profile
from hwprofiles.calibration import network_profile
from hwprofiles.device import Device, Fingerprint, Host, RuntimeFingerprint, Software, sealed
from hwprofiles.memory import parameter_bytes, peak_analytic_bytes
from hwprofiles.schema import (
    ChannelDivisor,
    Created,
    EndToEnd,
    FitRange,
    LayerProfile,
    Memory,
    Protocol,
    Workload,
)
from hwprofiles.timing import MAX_SPREAD
from hwprofiles.validation import LEAST, judged, validation_networks

NOT_TOLD = "not told"


def profile_from_times(path: str | Path, name: str | None = None) -> Profile:
    """The profile of the device that filled in a kit's table.

    Args:
        path: the table; the kit's manifest lies beside it.
        name: of the profile; default is the device's, with the runtime's.

    Raises:
        ValueError: a table or manifest that is wrong, a model that timm does not know, or one that
            is not the kit's.
        ProfileError: times that no network can have.
    """
    path = Path(path)
    manifest = read_manifest(path.parent)
    times = read_times(path, manifest)
    rows = times.rows
    if not timm.is_model(manifest.model):
        raise ValueError(f"model: {manifest.model!r} of the kit is not in timm's registry")
    model = timm.create_model(manifest.model, **manifest.model_kwargs)
    example = torch.zeros(1, *manifest.input_size)
    cost = build_cost(model, example, find_branches(model))
    specs = [t.layer for t in cost.terms if t.layer.type != PARAMETER]
    made = {n.name: candidate(model, cost, n.structure) for n in manifest.networks}
    fitted = [n.name for n in manifest.networks if not n.unseen]
    spread = median(r.spread for r in rows.values())
    profile = network_profile(
        name or _name(times),
        Created(
            utc=datetime.now(UTC).isoformat(timespec="seconds"),
            tool_version=hwprofiles.__version__,
            command=f"cpt-nas profile --from times.csv, kit {manifest.id}",
            seed=manifest.seed,
            wall_s=0.0,
        ),
        _fingerprint(times, manifest),
        _workload(times, manifest),
        Protocol(
            timer=NOT_TOLD,
            rounds=min(r.n for r in rows.values()),
            warm_up_s=0.0,
            statistic="as in the table",
            cache=NOT_TOLD,
            anchor=None,
            load_average=0.0,
            contention=None,
            spread=spread,
            verdict="noisy" if spread > MAX_SPREAD else "ok",
        ),
        ChannelDivisor(value=manifest.channel_divisor, sweeps=[]),
        _layers(specs, list(made.values()), manifest.model),
        {manifest.model: _end_to_end(model, rows[fitted[0]], specs, manifest)},
        {manifest.model: specs},
        [made[n] for n in fitted],
        [rows[n].median_s for n in fitted],
        manifest.seed,
    )
    unseen = [n.name for n in manifest.networks if n.unseen]
    if len(unseen) < LEAST:
        return profile
    networks = validation_networks(made[fitted[0]], [made[n] for n in unseen], [])
    measured = dict(zip(networks, [rows[n] for n in (fitted[0], *unseen)], strict=True))
    predicted = {label: c.predict_s(profile) for label, c in networks.items()}
    result = judged(
        manifest.model, networks, predicted, measured, manifest.seed, profile.protocol.verdict
    )
    return hwprofiles.with_validation(profile, {manifest.model: result})


def _name(times: Times) -> str:
    words = f"{times.device.get('device', 'device')} {times.device.get('runtime', '')}"
    return re.sub(r"[^0-9A-Za-z.]+", "-", words).strip("-").lower()[:100]


def _runtime(times: Times) -> tuple[str, str]:
    """(name, version), as in 'onnxruntime 1.32.0'."""
    runtime, _, version = times.device.get("runtime", NOT_TOLD).partition(" ")
    return (runtime, version) if version else (times.device.get("runtime", NOT_TOLD), NOT_TOLD)


def _fingerprint(times: Times, manifest: Manifest) -> Fingerprint:
    device, cores = times.device.get("device", NOT_TOLD), _count(times, "cores")
    name, version = _runtime(times)
    return sealed(
        Device(
            type="cpu",
            name=device,
            cores=cores,
            isa=None,
            memory_bytes=0,
            compute_capability=None,
            driver=None,
        ),
        Host(
            cpu=device,
            cores=cores,
            cpu_quota=None,
            os=times.device.get("system", NOT_TOLD),
            kernel=NOT_TOLD,
        ),
        Software(
            python=NOT_TOLD,
            torch=NOT_TOLD,
            timm=NOT_TOLD,
            fvcore=NOT_TOLD,
            cuda=None,
            cudnn=None,
            onednn=False,
        ),
        RuntimeFingerprint(
            name=name,
            version=version,
            provider=times.device.get("provider", NOT_TOLD),
            precision=times.device.get("precision", "float32"),
            graph_optimization=NOT_TOLD,
            exporter=manifest.exporter,
            spinning=False,
        ),
    )


def _workload(times: Times, manifest: Manifest) -> Workload:
    return Workload(
        device="cpu",
        models=[manifest.model],
        input_size=manifest.input_size,
        batch_size=manifest.batch_size,
        dtype="float32",
        threads=_count(times, "threads"),
        channels_last=False,
        runtime=_runtime(times)[0],
        keeps_freed_memory=False,
    )


def _count(times: Times, key: str) -> int:
    """A positive number of the table's first lines; 1 where it is not told.

    Raises:
        ValueError: it is something else.
    """
    value = times.device.get(key, "1")
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"times: # {key}: {value}, allowed is 1 or more")
    return int(value)


def _layers(specs: list[LayerSpec], networks: list[Candidate], model: str) -> list[LayerProfile]:
    counts = Counter(spec.signature for spec in specs)
    ranges: dict[str, list[tuple[int, int]]] = {}
    for e in (e for network in networks for e in network.layers):
        ranges.setdefault(e.signature, []).append((int(e.in_channels), int(e.out_channels)))
    layers = []
    for spec in {s.signature: s for s in specs}.values():
        ins, outs = zip(*ranges[spec.signature], strict=True)
        layers.append(
            LayerProfile(
                signature=spec.signature,
                type=spec.type,
                form=spec.form,
                in_channels=spec.in_channels,
                out_channels=spec.out_channels,
                count={model: counts[spec.signature]},
                macs=spec.macs,
                params=spec.params,
                activation_bytes=spec.activation_bytes,
                fit_range=FitRange(
                    in_channels=(min(ins), max(ins)), out_channels=(min(outs), max(outs))
                ),
                alone=None,
            )
        )
    return layers


def _end_to_end(
    model: torch.nn.Module, row: Row, specs: list[LayerSpec], manifest: Manifest
) -> EndToEnd:
    x = torch.zeros(manifest.batch_size, *manifest.input_size)
    return EndToEnd(
        median_s=row.median_s,
        q25_s=row.q25_s,
        q75_s=row.q75_s,
        n=row.n,
        p90_s=row.p90_s,
        p99_s=row.p99_s,
        first_call_s=row.first_call_s,
        file_bytes=manifest.networks[0].bytes,
        sum_of_layers_s=None,
        explained=None,
        calibrated_error=0.0,
        macs=sum(s.macs for s in specs),
        params=sum(s.params for s in specs),
        memory=Memory(
            parameter_bytes=parameter_bytes(model),
            activation_bytes=sum(s.activation_bytes for s in specs) * manifest.batch_size,
            peak_analytic_bytes=peak_analytic_bytes(model.eval(), x),
            peak_measured_bytes=None,
        ),
        unattributed_ops=[],
    )
