"""Measuring: models -> layers x widths -> times -> a profile."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import torch
from torch import Tensor, nn

from hwprofiles._version import __version__
from hwprofiles.allocator import keep_freed_memory
from hwprofiles.assemble import Timed, assemble
from hwprofiles.cost_profile import Profile
from hwprofiles.device import check_device
from hwprofiles.divisor import sweep_channel_divisor
from hwprofiles.facts import gather_facts
from hwprofiles.fields import check_name
from hwprofiles.plan import Widths, plan_chains
from hwprofiles.runtimes import find_runtime
from hwprofiles.runtimes.base import Runner, Setting, build_checked, example_input, place
from hwprofiles.runtimes.eager import NETWORK_BLOCK_S, Builder, call_of, pinned
from hwprofiles.runtimes.timers import Case
from hwprofiles.schema import (
    Anchor,
    Created,
    Protocol,
    Workload,
)
from hwprofiles.timing import (
    Measurement,
    Progress,
    Rounds,
    anchor_workload,
    check_rounds,
    is_contended,
    measure_rounds,
)
from hwprofiles.tracing import Traced, trace_all

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def measure(
    models: Mapping[str, nn.Module],
    input_size: Sequence[int],
    batch_size: int = 1,
    device: str = "cpu",
    threads: int = 1,
    dtype: str = "float32",
    channels_last: bool = False,
    runtime: str = "eager",
    name: str | None = None,
    rounds: int = 15,
    min_s: float = 8.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Profile:
    """Measure every layer of some models, and the models, in one setting.

    The models run in the runtime. The layers are timed in eager mode, one after the other; other
    runtimes rewrite the graph, and have no layers to time.

    The models are copied, not touched; random state and the number of threads are restored. The
    process keeps freed memory from now on, as in ``allocator.py``.

    Args:
        models: name -> model.
        input_size: (channels, height, width) of one example.
        batch_size: examples a call.
        device: 'cpu' or 'cuda'.
        threads: of torch on the CPU.
        dtype: 'float32' or 'bfloat16', of parameters and inputs.
        channels_last: memory format.
        runtime: what the models run in, a name in ``hwprofiles.runtimes.RUNTIMES``.
        name: of the profile; default like 'cpu-t1-b1'.
        rounds: readings of every point at least, 10 or more.
        min_s: go on for so many seconds, after warming up.
        seed: of the order within the rounds.
        progress: called with (stage, done, total).

    Raises:
        ValueError: a setting that is not allowed or not available here, or a model that the
            runtime does not take.
    """
    size = _input_size(input_size)
    _positive("batch_size", batch_size)
    if dtype not in DTYPES:
        raise ValueError(f"dtype: {dtype!r}, allowed are {', '.join(DTYPES)}")
    if not models:
        raise ValueError("models: none given, at least one is needed")
    check_rounds(rounds)
    for field, value in [("name", name), *(("models", label) for label in models)]:
        if value is not None:
            check_name(field, value)
    setting = Setting(check_device(device), DTYPES[dtype], batch_size, channels_last, threads)
    report = progress or (lambda stage, done, total: None)
    in_runtime = find_runtime(runtime)
    in_runtime.check(setting)
    begin = time.perf_counter()
    with pinned(setting):
        networks = {label: place(model, setting) for label, model in models.items()}
        x = example_input(setting, size)
        traced = {}
        for i, (label, network) in enumerate(networks.items()):
            report("tracing", i, len(networks))
            traced[label] = trace_all(network, x)
        report("tracing", len(networks), len(networks))
        unique = {s.signature: s for t in traced.values() for s in t.layers}
        runners = {  # before anything is timed: a model may not be taken
            label: build_checked(in_runtime, model, x, setting) for label, model in models.items()
        }
        divisor, contention = sweep_channel_divisor(
            traced, in_runtime, setting, min_s, seed, progress
        )
        timed = _time_everything(
            traced, runners, x, divisor.value, setting, rounds, min_s, seed, progress
        )
        facts = {}
        with torch.inference_mode():
            for i, (label, network) in enumerate(networks.items()):
                report("facts", i, len(networks))
                typical_s = timed.networks[label].median_s
                facts[label] = gather_facts(
                    in_runtime, network, runners[label], x, setting, traced[label], typical_s
                )
        report("facts", len(networks), len(networks))
    workload = Workload(
        device="cuda" if device == "cuda" else "cpu",
        models=list(models),
        input_size=size,
        batch_size=batch_size,
        dtype="bfloat16" if dtype == "bfloat16" else "float32",
        threads=threads,
        channels_last=channels_last,
        runtime=runtime,
        keeps_freed_memory=keep_freed_memory(),
    )
    return assemble(
        name or _default_name(workload),
        workload,
        in_runtime.fingerprint(setting),
        traced,
        unique,
        divisor,
        timed,
        facts,
        _protocol(timed.rounds, contention, setting),
        Created(
            utc=datetime.now(UTC).isoformat(timespec="seconds"),
            tool_version=__version__,
            command=_command(workload),
            seed=seed,
            wall_s=time.perf_counter() - begin,
        ),
    )


def time_models(
    models: Mapping[str, tuple[nn.Module, Tensor]],
    threads: int = 1,
    rounds: int = 15,
    block_s: float = NETWORK_BLOCK_S,
    min_s: float = 0.0,
    channels_last: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    runtime: str = "eager",
) -> dict[str, Measurement]:
    """Time whole models against each other, in interleaved rounds.

    Args:
        models: label -> (model, input), all on one device.
        threads: of torch on the CPU.
        rounds: readings of every model, at least 10.
        block_s: how long one reading should last, in seconds.
        min_s: go on for so many seconds, after warming up.
        channels_last: memory format; the models are copied.
        seed: of the order within the rounds.
        progress: called with (stage, done, total).
        runtime: what they run in.

    Returns:
        Label -> seconds of one forward pass, in the order of ``models``.

    Raises:
        ValueError: too few rounds or a number of threads that the machine does not have.
    """
    if not models:
        raise ValueError("models: none given, at least one is needed")
    first = next(iter(models.values()))[1]
    setting = Setting(first.device, first.dtype, len(first), channels_last, threads)
    in_runtime = find_runtime(runtime)
    in_runtime.check(setting)
    runners: dict[str, tuple[Runner, Tensor]] = {}
    with pinned(setting), torch.inference_mode():
        for label, (model, x) in models.items():
            x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
            runners[label] = build_checked(in_runtime, model, x, setting), x
    return time_runners(runners, setting, rounds, block_s, min_s, seed, progress)


def time_runners(
    runners: Mapping[str, tuple[Runner, Tensor]],
    setting: Setting,
    rounds: int = 15,
    block_s: float = NETWORK_BLOCK_S,
    min_s: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Measurement]:
    """Time what a runtime has made of models, in interleaved rounds.

    Args:
        runners: label -> (what is called, its input).
        setting: that they were made for.
        rounds, block_s, min_s, seed, progress: as for ``time_models``.

    Returns:
        Label -> seconds of one call, in the order of ``runners``.
    """
    cases: dict[str, Case] = {label: call_of(*both) for label, both in runners.items()}
    with pinned(setting), torch.inference_mode():
        anchor = anchor_workload(setting.device, setting.dtype)
        timed = measure_rounds(
            cases, anchor, setting.timer(), (), rounds, block_s, min_s, seed, progress
        )
    return {label: timed.measurements[label] for label in runners}


def _time_everything(
    traced: Mapping[str, Traced],
    networks: Mapping[str, Runner],
    x: Tensor,
    divisor: int,
    setting: Setting,
    rounds: int,
    min_s: float,
    seed: int,
    progress: Progress | None,
) -> Timed:
    plans = {label: plan_chains(t.layers, divisor) for label, t in traced.items()}
    work = [
        (spec, widths)
        for label, t in traced.items()
        for chain in plans[label]
        for spec, widths in zip(t.layers, chain, strict=True)
    ]
    builder = Builder(work, setting)
    layers: dict[str, dict[Widths, str]] = {}
    chains = []
    with torch.inference_mode():
        for label, t in traced.items():
            for widths in plans[label]:
                chain = []
                for spec, (cin, cout) in zip(t.layers, widths, strict=True):
                    key = f"{spec.signature} at {cin} -> {cout}"
                    layers.setdefault(spec.signature, {})[cin, cout] = key
                    chain.append((key, builder.case(spec, cin, cout)))
                chains.append(chain)
        timed = measure_rounds(
            {label: call_of(network, x) for label, network in networks.items()},
            anchor_workload(setting.device, setting.dtype),
            setting.timer(),
            chains,
            rounds,
            block_s=NETWORK_BLOCK_S,
            min_s=min_s,
            seed=seed,
            progress=progress,
        )
    times = timed.measurements
    return Timed(
        {s: {w: times[key] for w, key in keys.items()} for s, keys in layers.items()},
        {label: times[label] for label in networks},
        timed,
    )


def _protocol(timed: Rounds, before: float | None, setting: Setting) -> Protocol:
    """``before``: the contention during the sweep for the channel divisor."""
    seen = [c for c in (timed.contention, before) if c is not None]
    return Protocol(
        timer=setting.timer().name,
        rounds=timed.rounds,
        warm_up_s=timed.warm_up_s,
        statistic="median over rounds of times / (the anchor's slowness ** exponent)",
        cache="as in the network: layers are called one after the other",
        anchor=Anchor(
            first_s=timed.anchors_s[0],
            last_s=timed.anchors_s[-1],
            spread=timed.anchor_spread,
            exponent=timed.exponent,
            reference_s=timed.reference_s,
        ),
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        contention=max(seen, default=None),
        spread=timed.spread,
        verdict="noisy" if timed.verdict == "noisy" or is_contended(before) else "ok",
    )


def _default_name(w: Workload) -> str:
    parts: list[str] = [w.device, f"t{w.threads}"] if w.device == "cpu" else [w.device]
    parts.append(f"b{w.batch_size}")
    parts += ["bf16"] if w.dtype == "bfloat16" else []
    parts += ["nhwc"] if w.channels_last else []
    parts += [w.runtime] if w.runtime != "eager" else []
    return "-".join(parts)


def _command(w: Workload) -> str:
    """The command that measures the same again; paths are left out."""
    words = ["hwprofiles measure", *w.models, "--input-size", *map(str, w.input_size)]
    words += ["--batch-size", str(w.batch_size), "--device", w.device, "--threads", str(w.threads)]
    words += ["--dtype", w.dtype, *(["--channels-last"] if w.channels_last else [])]
    words += ["--runtime", w.runtime]
    return " ".join(words)


def _input_size(values: Sequence[int]) -> tuple[int, int, int]:
    if len(values) != 3 or any(v < 1 for v in values):
        raise ValueError(
            f"input_size: {tuple(values)}, allowed are three positive numbers: "
            "channels, height, width"
        )
    return (values[0], values[1], values[2])


def _positive(field: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{field}: {value}, allowed is 1 or more")
