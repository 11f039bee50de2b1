"""A kit: cut networks as files, to be timed on a device that has no PyTorch.

The folder holds an ONNX file a network, ``manifest.json``, which says what they are, and
``run.py``, which times them with nothing but onnxruntime and numpy. What comes back is
``times.csv`` (``kit_table.py``); whatever harness wrote it, a profile of that device follows. What
can go wrong on the way is a mix-up, so files carry the kit's id in their names, and a table is read
against the manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
from hwprofiles.output import refuse_foreign_folder, staging
from hwprofiles.runtimes.onnx_file import EXPORTER, onnx_bytes, require_exporter

MANIFEST, TIMES, RUN = "manifest.json", "times.csv", "run.py"
NETWORK_FILE = re.compile(r"[0-9a-f]{6}-[0-9]{3,}\.onnx")
# Networks that a profile is judged on are drawn from a stream of their own.
UNSEEN_STREAM = 1_000_000

Progress = Callable[[str, int, int], None]


class KitNetwork(BaseModel):
    """One network of a kit."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="of the file, without .onnx, and in the first column of a table")
    unseen: bool = Field(description="a profile is judged on it, and not fitted to it")
    sha256: str
    bytes: int = Field(ge=1, description="of the file")
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
        ValueError: onnx is not installed, a folder that holds something else, or a model that has
            not so many structures or cannot be exported.
    """
    require_exporter()
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
    everything = [dense, *fitted, *judged]

    def manifest_of(unfinished: Path) -> Manifest:
        """Write all but the manifest there."""
        written = []
        for i, structure in enumerate(everything):
            if progress is not None:
                progress("exporting", i, len(everything))
            content = onnx_bytes(candidate(model, cost, structure).build(), example)
            file = f"{kit_id}-{i:03d}"
            write_whole(unfinished / f"{file}.onnx", content)
            written.append(
                KitNetwork(
                    name=file,
                    unseen=i > networks,
                    sha256=hashlib.sha256(content).hexdigest(),
                    bytes=len(content),
                    structure=structure.model_copy(update={"architecture": name}),
                )
            )
        write_whole(unfinished / RUN, Path(kit_run.__file__).read_bytes())
        return Manifest(
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

    with _replaced(folder) as unfinished:
        manifest = manifest_of(unfinished)
        write_whole(unfinished / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    if progress is not None:
        progress("exporting", len(everything), len(everything))
    return manifest


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """A place for a new kit, which takes the old one's when it is whole; until then that stays."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = staging(folder, MANIFEST)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        yield unfinished
    except BaseException:
        shutil.rmtree(unfinished)
        for path in made:
            path.rmdir()
        raise
    (folder / MANIFEST).unlink(missing_ok=True)
    for old in [path for path in folder.iterdir() if path != unfinished]:
        old.unlink()
    for new in sorted(unfinished.iterdir(), key=lambda path: path.name == MANIFEST):
        os.replace(new, folder / new.name)  # a whole kit has a manifest
    unfinished.rmdir()


def _is_untimed_kit(folder: Path) -> bool:
    """Whether nothing but a kit is there, whole or not; a table of times would be lost."""
    return all(
        entry.name in (MANIFEST, RUN, staging(folder, MANIFEST).name)
        or NETWORK_FILE.fullmatch(entry.name)
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
