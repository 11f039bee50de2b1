"""Times the ONNX files of this kit against each other and writes times.csv.

    python run.py                          # ONNX Runtime on the CPU, one thread
    python run.py --threads 4 --provider CUDAExecutionProvider

Needs onnxruntime and numpy, nothing else. Every round times each network, in a new order, so that
none has the quiet minutes for itself; a reading is the fastest of three calls, and a network's time
is the lower quartile over the rounds. The dense network stands in every group of networks that are
loaded together: a group's times are divided by how far it is from its median.

Another harness fills in the same file: network, seconds, q25_s, q75_s, n, in the order of
manifest.json, with '# key: value' lines before the header. What it knows of single calls goes into
p90_s, p99_s and first_call_s, which may be empty or left out.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import platform
import random
import sys
import time
from pathlib import Path
from typing import Any

COLUMNS = ("network", "seconds", "q25_s", "q75_s", "n")
OPTIONAL = ("p90_s", "p99_s", "first_call_s")
CALLS, WARM_UP = 3, 3
LEAST = {0.9: 10, 0.99: 100}  # single calls that a quantile needs


def load(file: Path, sha256: str, threads: int, provider: str) -> Any:
    """A session of one file; idle threads sleep, as another session is to run undisturbed."""
    import onnxruntime

    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
        sys.exit(f"{file.name}: is not as it was written; copy the kit once more")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(file), options, providers=[provider])
    if session.get_providers()[0] != provider:  # it falls back to another by itself
        sys.exit(f"provider: {provider} is not there, got {session.get_providers()[0]}")
    return session


def call(session: Any, inputs: dict[str, Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    session.run(None, inputs)
    return time.perf_counter() - start


def main() -> None:
    import numpy as np
    import onnxruntime

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--provider", default="CPUExecutionProvider")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--group", type=int, default=30, help="networks loaded together")
    parser.add_argument("-o", "--output", type=Path, default=None, help="default: times.csv here")
    args = parser.parse_args()
    if min(args.threads, args.rounds, args.group) < 1:
        parser.error("--threads, --rounds and --group must be 1 or more")
    here, order = Path(__file__).resolve().parent, random.Random(0)
    manifest = json.loads((here / "manifest.json").read_text())
    hashes = {network["name"]: network["sha256"] for network in manifest["networks"]}
    dense, *cut = hashes
    shape = (manifest["batch_size"], *manifest["input_size"])
    inputs = {"input": np.random.default_rng(0).random(shape, dtype=np.float32)}
    groups = [cut[i : i + args.group] for i in range(0, len(cut), args.group)] or [[]]
    first: dict[str, float] = {}
    calls: dict[str, list[Any]] = {name: [] for name in hashes}  # a group's [rounds, CALLS] each
    for i, names in enumerate(groups):
        print(f"group {i + 1} of {len(groups)}: the dense network and {len(names)}", flush=True)
        sessions = {}
        for n in [dense, *names]:
            sessions[n] = load(here / f"{n}.onnx", hashes[n], args.threads, args.provider)
            first.setdefault(n, call(sessions[n], inputs))
            for _ in range(WARM_UP):
                call(sessions[n], inputs)
        rounds: dict[str, list[list[float]]] = {name: [] for name in sessions}
        for _ in range(args.rounds):
            for name in order.sample(list(sessions), len(sessions)):
                call(sessions[name], inputs)  # brings its own data back into the caches
                rounds[name].append([call(sessions[name], inputs) for _ in range(CALLS)])
        for name, values in rounds.items():
            calls[name].append(np.array(values))
        del sessions
    medians = [float(np.median(values.min(axis=1))) for values in calls[dense]]
    slow = [m / float(np.median(medians)) for m in medians]
    of_group = {dense: slow} | {n: [s] for names, s in zip(groups, slow) for n in names}
    output = args.output or here / "times.csv"
    temporary = output.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        for key, value in {
            "kit": manifest["id"],
            "runtime": f"onnxruntime {onnxruntime.__version__}",
            "provider": args.provider,
            "threads": args.threads,
            "device": cpu_name(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "drift": f"{max(slow) / min(slow) - 1:.3f}",
        }.items():
            file.write(f"# {key}: {value}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*COLUMNS, *OPTIONAL])
        for name in [dense, *cut]:
            fastest = np.concatenate(
                [v.min(axis=1) / s for v, s in zip(calls[name], of_group[name])]
            )
            low, high = np.quantile(fastest, [0.25, 0.75])
            single = np.concatenate([v.ravel() for v in calls[name]])
            tail = [np.quantile(single, q) if len(single) >= n else None for q, n in LEAST.items()]
            numbers = [low, low, high, *tail, first[name]]
            cells = ["" if v is None else f"{v:.9g}" for v in numbers]
            writer.writerow([name, *cells[:3], len(fastest), *cells[3:]])
    os.replace(temporary, output)
    print(f"{output}: {len(cut) + 1} networks; the dense one takes {min(medians) * 1e3:.3g} ms")


def cpu_name() -> str:
    """As the system names the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
