"""What is deployed: the finished network of a run folder, or of a folder that was exported."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from torch import nn

import hwprofiles
from cpt_nas.pruning.export import CONFIG, FILES
from cpt_nas.pruning.structure import Structure, load_structure
from cpt_nas.train.run_folder import EXPORT, RESULT, Run, load_run
from hwprofiles import Profile
from hwprofiles.messages import naming
from hwprofiles.models import check_size

LABELS = ("label_names", "label_descriptions")


@dataclass(frozen=True)
class Source:
    """A finished network.

    Attributes:
        folder: timm's local-dir folder that holds it.
        model: plain, in eval mode, on the CPU.
        structure: what is left of which network.
        arguments: that it was loaded with, beside what the folder says.
        input_size: channels, height, width.
        labels: names of the classes, and their descriptions, where they are known.
        run: the run folder it comes from, if it comes from one.
    """

    folder: Path
    model: nn.Module
    structure: Structure
    arguments: dict[str, Any]
    input_size: tuple[int, int, int]
    labels: dict[str, Any]
    run: Run | None

    @property
    def config(self) -> dict[str, Any]:
        """timm's pretrained_cfg."""
        return dict(self.model.pretrained_cfg)  # type: ignore[arg-type]

    @property
    def is_dense(self) -> bool:
        """Whether nothing was cut."""
        branches = self.structure.branches.values()
        return all(
            b.kept and all(len(u.kept) == u.total for u in b.units.values()) for b in branches
        )

    def dense_model(self) -> nn.Module:
        """The network that it was cut from, with random weights."""
        kwargs = self.structure.model_kwargs | self.arguments
        model: nn.Module = timm.create_model(self.structure.architecture, **kwargs)
        return model.eval()

    def profile(self) -> Profile | None:
        """The profile that the run was searched under."""
        if self.run is None or self.run.profile is None:
            return None
        return hwprofiles.load(self.run.profile)


def load_network(folder: Path, **arguments: Any) -> nn.Module:
    """A finished network in eval mode, as a user loads it.

    Args:
        folder: exported.
        arguments: for timm.create_model.

    Raises:
        ValueError: it is damaged; names the folder.
    """
    with naming(f"run: {folder} cannot be loaded"):
        model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True, **arguments)
    return model.eval()


def load_source(path: Path, img_size: int | None = None) -> Source:
    """The finished network of a run, or of a folder that was exported.

    Args:
        path: of either.
        img_size: height and width of the input; None: as it was trained.

    Raises:
        ValueError: neither; a run that has not finished; a damaged one; or a network that does not
            run at this size.
    """
    is_export = (path / CONFIG).is_file()
    folder = path if is_export else path / EXPORT
    for name in FILES:
        if not (folder / name).is_file():
            hint = "" if is_export else "; has it finished training?"
            raise ValueError(f"run: {path} has no {'' if is_export else 'export/'}{name}{hint}")
    run = load_run(path) if not is_export and (path / RESULT).is_file() else None
    with naming(f"run: {folder} cannot be loaded"):
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict) or config.get("architecture") != "cpt_pruned":
            raise ValueError(f"{CONFIG} is not of a network that cpt-nas has exported")
    model = load_network(folder)
    arguments: dict[str, Any] = {}
    channels, *sides = model.pretrained_cfg["input_size"]  # type: ignore[index]
    if img_size is not None and sides != [img_size, img_size]:
        sides = [img_size, img_size]
        model, arguments = _at(folder, model, img_size)
    size = (channels, *sides)
    check_size(model, size, f"img-size: {sides[0]} does not fit {path}")
    return Source(
        folder,
        model,
        load_structure(config["model_args"]["structure"]),
        arguments,
        size,
        {key: config[key] for key in LABELS if config.get(key) is not None},
        run,
    )


def _at(folder: Path, model: nn.Module, img_size: int) -> tuple[nn.Module, dict[str, Any]]:
    """The network at another size, and the argument that it takes for it, if it needs one."""
    arguments: dict[str, Any] = {"img_size": img_size}
    try:
        loaded = timm.create_model(f"local-dir:{folder}", pretrained=True, **arguments)
    except TypeError:  # its forward pass takes any size
        return model, {}
    except Exception as error:
        with naming(f"img-size: {img_size} does not fit {folder}"):
            raise error
    return loaded.eval(), arguments
