"""Times the ONNX files of this kit against each other and writes times.csv.

    python run.py                          # ONNX Runtime on the CPU, one thread
    python run.py --threads 4 --provider CUDAExecutionProvider

Needs onnxruntime and numpy, nothing else. Every round times each network once, in a new order, so
that no network has the quiet minutes for itself; a reading is the fastest of three calls, and a
network's time is the lower quartile over the rounds. The dense network stands in every group of
networks that are loaded together: a group's times are divided by how far it is from its median.

Another harness fills in the same file: network, seconds, q25_s, q75_s, n, in the order of
manifest.json, with '# key: value' lines before the header.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import sys
import time
from pathlib import Path
from typing import Any

COLUMNS = ("network", "seconds", "q25_s", "q75_s", "n")
CALLS, WARM_UP = 3, 3


def load(file: Path, threads: int, provider: str) -> Any:
    """A session of one file; idle threads sleep, as another session is to run undisturbed."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(file), options, providers=[provider])
    if session.get_providers()[0] != provider:  # it falls back to another by itself
        sys.exit(f"provider: {provider} is not there, got {session.get_providers()[0]}")
    return session


def time_group(
    sessions: dict[str, Any], inputs: dict[str, Any], rounds: int, order: random.Random
) -> dict[str, list[float]]:
    """network -> its readings in seconds, one a round."""
    readings: dict[str, list[float]] = {name: [] for name in sessions}
    for session in sessions.values():
        for _ in range(WARM_UP):
            session.run(None, inputs)
    for _ in range(rounds):
        names = list(sessions)
        order.shuffle(names)
        for name in names:
            fastest = float("inf")
            sessions[name].run(None, inputs)  # brings its own data back into the caches
            for _ in range(CALLS):
                start = time.perf_counter()
                sessions[name].run(None, inputs)
                fastest = min(fastest, time.perf_counter() - start)
            readings[name].append(fastest)
    return readings


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
    here = Path(__file__).resolve().parent
    manifest = json.loads((here / "manifest.json").read_text())
    dense, *cut = [network["name"] for network in manifest["networks"]]
    shape = (manifest["batch_size"], *manifest["input_size"])
    inputs = {"input": np.random.default_rng(0).random(shape, dtype=np.float32)}
    order = random.Random(0)
    groups = [cut[i : i + args.group] for i in range(0, len(cut), args.group)] or [[]]
    readings: dict[str, list[np.ndarray]] = {}
    for i, names in enumerate(groups):
        print(f"group {i + 1} of {len(groups)}: the dense network and {len(names)}", flush=True)
        files = {name: here / f"{name}.onnx" for name in [dense, *names]}
        sessions = {name: load(f, args.threads, args.provider) for name, f in files.items()}
        for name, times in time_group(sessions, inputs, args.rounds, order).items():
            readings.setdefault(name, []).append(np.array(times))
        del sessions
    medians = [float(np.median(values)) for values in readings[dense]]
    slow = [m / float(np.median(medians)) for m in medians]
    readings[dense] = [np.concatenate([v / s for v, s in zip(readings[dense], slow)])]
    for names, s in zip(groups, slow):
        for name in names:
            readings[name] = [readings[name][0] / s]
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
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for name in [dense, *cut]:
            values = readings[name][0]
            low, high = np.quantile(values, [0.25, 0.75])
            writer.writerow([name, f"{low:.9g}", f"{low:.9g}", f"{high:.9g}", len(values)])
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
