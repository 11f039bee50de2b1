"""A kit: cut networks as files, to be timed on a device that has no PyTorch.

The folder holds an ONNX file a network, ``manifest.json``, which says what they are, and
``run.py``, which times them with nothing but onnxruntime and numpy. What comes back is
``times.csv``; whatever harness wrote it, a profile of that device follows. What can go wrong on the
way is a mix-up, so files carry the kit's id in their names, and a table is read against the
manifest.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from cpt_nas.calibration import kit_run
from cpt_nas.calibration.random_structures import candidate, random_structures
from cpt_nas.costs.cost_model import build_cost
from cpt_nas.pruning.search_space import find_branches
from cpt_nas.pruning.structure import Structure, dense_structure
from hwprofiles.files import write_whole
from hwprofiles.output import refuse_foreign_folder
from hwprofiles.runtimes.onnx_file import EXPORTER, onnx_bytes

MANIFEST, TIMES, RUN = "manifest.json", "times.csv", "run.py"
COLUMNS = kit_run.COLUMNS
NETWORK_FILE = re.compile(r"[0-9a-f]{6}-[0-9]{3,}\.onnx(\.tmp)?")
# Networks that a profile is judged on are drawn from a stream of their own.
UNSEEN_STREAM = 1_000_000

Progress = Callable[[str, int, int], None]


class KitNetwork(BaseModel):
    """One network of a kit."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="of the file, without .onnx, and in the first column of a table")
    unseen: bool = Field(description="a profile is judged on it, and not fitted to it")
    sha256: str
    structure: Structure


class Manifest(BaseModel):
    """What a kit holds."""

    model_config = ConfigDict(extra="forbid")

    id: str
    model: str
    model_kwargs: dict[str, Any]
    input_size: tuple[int, int, int]
    batch_size: int = Field(ge=1)
    channel_divisor: int = Field(ge=1)
    seed: int
    exporter: str
    networks: list[KitNetwork] = Field(min_length=2)


@dataclass(frozen=True)
class Times:
    """What a device answered.

    Attributes:
        seconds: network -> (seconds, lower quartile, upper quartile, readings), in the kit's order.
        device: the lines '# key: value' before the header.
    """

    seconds: dict[str, tuple[float, float, float, int]]
    device: dict[str, str]


def write_kit(
    folder: Path,
    name: str,
    model: nn.Module,
    input_size: tuple[int, int, int],
    model_kwargs: Mapping[str, Any] | None = None,
    networks: int = 100,
    unseen: int = 30,
    batch_size: int = 1,
    channel_divisor: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> Manifest:
    """Write a kit into a new or empty folder.

    Args:
        folder: made if missing.
        name: of the model in timm's registry.
        model: uncut. It is not changed.
        input_size: channels, height, width of an example.
        model_kwargs: what the model was made with, besides its name.
        networks: random cut ones that the profile is fitted to.
        unseen: more of them, that it is judged on.
        batch_size: examples a call; fixed in the files.
        channel_divisor: widths are multiples of it; 8 or 16 suit most runtimes.
        seed: of the structures.
        progress: called with (stage, done, total).

    Raises:
        ValueError: a folder that holds something else, or a model that has not so many structures
            or cannot be exported.
    """
    refuse_foreign_folder(folder, "a kit without times", MANIFEST, _is_untimed_kit)
    space = find_branches(model)
    cost = build_cost(model, torch.zeros(1, *input_size), space, None)
    dense = dense_structure(space, name, dict(model_kwargs or {}))
    fitted = random_structures(model, cost, networks, seed, channel_divisor)
    taken = [candidate(model, cost, s).digest() for s in fitted]
    judged = random_structures(
        model, cost, unseen, UNSEEN_STREAM + seed, channel_divisor, exclude=taken
    )
    identity = json.dumps(
        [name, dense.model_kwargs, input_size, batch_size, channel_divisor, seed, networks, unseen],
        sort_keys=True,
    )
    kit_id = hashlib.sha256(identity.encode()).hexdigest()[:6]
    example = torch.rand(batch_size, *input_size, generator=torch.Generator().manual_seed(0))
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    written = []
    everything = [dense, *fitted, *judged]
    for i, structure in enumerate(everything):
        if progress is not None:
            progress("exporting", i + 1, len(everything))
        content = onnx_bytes(candidate(model, cost, structure).build(), example)
        file = f"{kit_id}-{i:03d}"
        write_whole(folder / f"{file}.onnx", content)
        written.append(
            KitNetwork(
                name=file,
                unseen=i > networks,
                sha256=hashlib.sha256(content).hexdigest(),
                structure=structure.model_copy(update={"architecture": name}),
            )
        )
    manifest = Manifest(
        id=kit_id,
        model=name,
        model_kwargs=dense.model_kwargs,
        input_size=input_size,
        batch_size=batch_size,
        channel_divisor=channel_divisor,
        seed=seed,
        exporter=EXPORTER,
        networks=written,
    )
    write_whole(folder / RUN, Path(kit_run.__file__).read_bytes())
    write_whole(folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")  # a whole kit has one
    return manifest


def _is_untimed_kit(folder: Path) -> bool:
    """Whether nothing but a kit is there, whole or not; a table of times would be lost."""
    return all(
        entry.name in (MANIFEST, RUN) or NETWORK_FILE.fullmatch(entry.name)
        for entry in folder.iterdir()
    )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a kit.

    Raises:
        ValueError: there is none, or it is damaged; in one line.
    """
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError:
        raise ValueError(f"kit: {path} cannot be read; a kit's table lies beside it") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"kit: {path}: {field}: {first['msg']}") from None


def read_times(path: Path, manifest: Manifest) -> Times:
    """A table of times, checked line by line against the kit.

    Args:
        path: the CSV file: lines '# key: value', the header, a line a network in the kit's order.
        manifest: of the kit that was timed.

    Raises:
        ValueError: names the line, what stands there and what is expected.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"times: {path} cannot be read: {error}") from None
    device: dict[str, str] = {}
    start = 0
    while start < len(lines) and lines[start].startswith("#"):
        key, colon, value = lines[start][1:].partition(":")
        if not colon or key.strip() in device:
            wanted = "'# key: value', each key once"
            raise _wrong(path, start, f"{lines[start]!r}, expected is {wanted}")
        device[key.strip()] = value.strip()
        start += 1
    if device.get("kit", manifest.id) != manifest.id:
        raise ValueError(
            f"times: {path} is of kit {device['kit']}, the manifest beside it of {manifest.id}"
        )
    if start == len(lines) or tuple(lines[start].split(",")) != COLUMNS:
        found = lines[start] if start < len(lines) else "the end of the file"
        raise _wrong(path, start, f"{found!r}, expected is the header {','.join(COLUMNS)}")
    rows = list(csv.reader(lines[start + 1 :]))
    seconds = {}
    for i, network in enumerate(manifest.networks):
        at = start + 1 + i
        if i >= len(rows):
            raise _wrong(path, at, f"the end of the file, expected is network {network.name}")
        if not rows[i] or rows[i][0] != network.name:
            found = rows[i][0] if rows[i] else ""
            raise _wrong(path, at, f"network {found!r}, expected is {network.name!r}")
        seconds[network.name] = _numbers(path, at, rows[i])
    if len(rows) > len(manifest.networks):
        at = start + 1 + len(manifest.networks)
        raise _wrong(path, at, f"{','.join(rows[len(manifest.networks)])!r}, expected is the end")
    return Times(seconds, device)


def _numbers(path: Path, at: int, row: Sequence[str]) -> tuple[float, float, float, int]:
    try:
        (_, *values, n) = row
        seconds, low, high = (float(v) for v in values)
        count = int(n)
    except ValueError:
        wanted = f"{len(COLUMNS)} cells, numbers in all but the first"
        raise _wrong(path, at, f"{','.join(row)!r}, expected are {wanted}") from None
    if not (0 < low <= seconds <= high < 3600 and count >= 1):
        raise _wrong(
            path, at, f"{','.join(row)!r}, expected is 0 < q25_s <= seconds <= q75_s < 3600, n >= 1"
        )
    return seconds, low, high, count


def _wrong(path: Path, index: int, what: str) -> ValueError:
    return ValueError(f"times: {path}, line {index + 1}: {what}")
