"""A finished network, written in the format that it is deployed in: converted, compared, timed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import hwprofiles
from cpt_nas.deploy.comparison import Comparison, Inputs, compare, inputs_for
from cpt_nas.deploy.description import (
    DESCRIPTION,
    Compared,
    Description,
    Port,
    Preprocessing,
    described_files,
)
from cpt_nas.deploy.formats import Content, Format, find_format
from cpt_nas.deploy.latency import CUT, DENSE, MEASURED_S, Latency, promised
from cpt_nas.deploy.source import Source, load_source
from cpt_nas.train.run_folder import provenance
from hwprofiles import Profile
from hwprofiles.device import check_device
from hwprofiles.files import try_writing
from hwprofiles.measure import time_runners
from hwprofiles.output import refuse_foreign_folder, write_folder
from hwprofiles.runtimes.base import Runner, Runtime, Setting, version_of
from hwprofiles.runtimes.eager import pinned
from hwprofiles.timing import Progress


@dataclass(frozen=True)
class Wanted:
    """How a network is to be deployed; None is as in the profile, or else the first in brackets.

    Attributes:
        format: name of the format.
        batch_size: examples a call [1].
        dynamic_batch: leave the batch open.
        img_size: height and width [as trained].
        device: 'cpu' or 'cuda', to compare and to time on [cpu].
        threads: on the CPU [1].
        dtype: 'float32' or 'bfloat16', that the runtime computes in [float32].
        data: folder or archive of pictures [the run's test pictures].
        profile: file, or name of a shipped one [the run's own].
        timing: whether latency is measured.
    """

    format: str = "timm"
    batch_size: int | None = None
    dynamic_batch: bool = False
    img_size: int | None = None
    device: str | None = None
    threads: int | None = None
    dtype: str | None = None
    data: Path | None = None
    profile: str | Path | None = None
    timing: bool = True


@dataclass(frozen=True)
class Deployed:
    """What was written, and what is known of it.

    Attributes:
        folder: that holds it.
        sizes: file -> bytes.
        inputs: what outputs were compared on.
        comparison: with the plain model.
        allowed: largest difference.
        latency: None where it was not measured.
    """

    folder: Path
    sizes: dict[str, int]
    inputs: Inputs
    comparison: Comparison
    allowed: float
    latency: Latency | None


@dataclass(frozen=True)
class _Made:
    """A network in its format, and how it runs."""

    form: Format
    source: Source
    runtime: Runtime
    setting: Setting
    dynamic_batch: bool
    x: Tensor
    content: Content
    runner: Runner

    @property
    def given(self) -> Tensor:
        """One call's input."""
        return _given(self.x, self.setting)


def deploy(path: Path, output: Path, wanted: Wanted, progress: Progress | None = None) -> Deployed:
    """Write a finished network in a format, compare it with the plain model, and time it.

    Args:
        path: a finished run folder, or one that was exported for timm.
        output: new, empty, or one that this function has written in the same form.
        wanted: format, setting, pictures.
        progress: called with (stage, done, total).

    Raises:
        ValueError: an unknown format, a missing package, a setting that the runtime lacks here, a
            network that is not taken, outputs that differ, or a folder of another kind. Nothing has
            been written then.
        OSError: the folder cannot be written.
    """
    form = find_format(wanted.format)
    form.runtime()  # its packages are at hand
    refuse_foreign_folder(output, f"an exported network ({form.name})", form.last, form.is_own)
    if wanted.img_size is not None and not form.described:
        raise ValueError(
            f"img-size: {wanted.img_size}, but a folder for timm takes img_size when it is loaded"
        )
    source = load_source(path, wanted.img_size)
    profile = hwprofiles.load(wanted.profile) if wanted.profile is not None else source.profile()
    runtime = form.runtime(profile.workload.runtime if profile is not None else None)
    setting = choose_setting(form, runtime, wanted, profile)
    try_writing(output / form.last)
    inputs = inputs_for(source, wanted.data)
    with pinned(setting), torch.inference_mode():
        if progress is not None:
            progress("converting", 0, 1)
        made = _make(form, source, runtime, setting, wanted.dynamic_batch, inputs.x)
        sizes = _batch_sizes(form, setting, wanted.dynamic_batch)
        comparison = compare(made.runner, source.model, inputs.x, sizes, setting)
        if progress is not None:
            progress("converting", 1, 1)
    allowed = runtime.tolerances[setting.dtype]
    if not comparison.difference <= allowed:  # NaN is not
        raise ValueError(
            f"format: {form.name}: outputs are not the plain model's: on {inputs.words} they differ"
            f" by {comparison.difference:.2g} of the largest one, allowed is {allowed:g}"
        )
    latency = _latency(made, profile, progress) if wanted.timing else None
    files = dict(made.content)
    if form.described:
        compared = Compared(
            inputs=inputs.words,
            n=comparison.n,
            difference=comparison.difference,
            allowed=allowed,
            same_class=comparison.same_class,
        )
        described = _description(made, compared).model_dump_json(indent=1)
        files[DESCRIPTION] = (described + "\n").encode()
    write_folder(output, files, form.last, described_files)
    named = {name: len(data) for name, data in files.items()}
    return Deployed(output, named, inputs, comparison, allowed, latency)


def choose_setting(
    form: Format, runtime: Runtime, wanted: Wanted, profile: Profile | None
) -> Setting:
    """Where and how a network is compared and timed: the profile's setting, unless told otherwise.

    Of a profile of another runtime only the batch and the threads are taken.

    Raises:
        ValueError: the runtime lacks it here, or an open batch without a largest one.
    """
    w = profile.workload if profile is not None else None
    home = w if w is not None and w.runtime == runtime.name else None
    device = wanted.device or (home.device if home else "cpu")
    dtype = wanted.dtype or (home.dtype if home else "float32")
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype: {dtype!r}, allowed are float32 and bfloat16")
    setting = Setting(
        check_device(device),
        getattr(torch, dtype),
        wanted.batch_size or (w.batch_size if w else 1),
        home.channels_last if home else False,
        wanted.threads or (w.threads if w is not None and w.device == "cpu" else 1),
    )
    runtime.check(setting)
    if form.plans_memory and wanted.dynamic_batch and setting.batch_size < 2:
        raise ValueError(
            f"dynamic-batch: {form.name} plans its memory for a largest batch; give it as "
            "--batch-size, 2 or more"
        )
    return setting


def _make(
    form: Format,
    source: Source,
    runtime: Runtime,
    setting: Setting,
    dynamic_batch: bool,
    inputs: Tensor,
) -> _Made:
    """Convert, and read what was made anew."""
    batch = setting.batch_size
    # An exporter may take a batch of one for a constant.
    n = max(2, batch) if dynamic_batch else batch
    x = inputs[torch.arange(n) % len(inputs)]
    content = form.content(source, x, dynamic_batch)
    runner = form.load(content, _given(x, setting), runtime, setting)
    return _Made(form, source, runtime, setting, dynamic_batch, x, content, runner)


def _given(x: Tensor, setting: Setting) -> Tensor:
    """One call's input."""
    x = x[: setting.batch_size].to(setting.device, setting.dtype)
    return x.contiguous(memory_format=torch.channels_last) if setting.channels_last else x


def _batch_sizes(form: Format, setting: Setting, dynamic_batch: bool) -> list[int]:
    batch = setting.batch_size
    if not dynamic_batch:
        return [batch]
    other = batch - 1 if form.plans_memory else batch + 1
    return sorted({batch, 1, other})


def _latency(made: _Made, profile: Profile | None, progress: Progress | None) -> Latency:
    form, source, runtime, setting = made.form, made.source, made.runtime, made.setting
    dense = source.dense_model()
    with pinned(setting), torch.inference_mode():
        uncut = form.dense(dense, made.x, runtime, setting, made.dynamic_batch)
    runners: dict[str, tuple[Runner, Tensor]] = {DENSE: (uncut, made.given)}
    if not source.is_dense:
        runners[CUT] = made.runner, made.given
    measured = time_runners(runners, setting, min_s=MEASURED_S * len(runners), progress=progress)
    promise = promised(profile, source, dense, runtime, setting) if profile is not None else None
    version = runtime.fingerprint(setting).version
    words = f"{runtime.name} {version} ({runtime.provider(setting)}), {setting.words}"
    return Latency(words, measured, promise)


def _description(made: _Made, compared: Compared) -> Description:
    form, source, setting, runtime = made.form, made.source, made.setting, made.runtime
    config = source.config
    with torch.inference_mode():
        out = made.runner(made.given)
    batch = None if made.dynamic_batch else setting.batch_size
    versions = {name: str(version) for name, version in provenance()["versions"].items()}
    versions[runtime.distribution] = version_of(runtime.distribution)
    if runtime.exporter is not None:
        versions["exporter"] = runtime.exporter
    return Description(
        format=form.name,
        files=sorted(made.content),
        architecture=source.structure.architecture,
        input=Port(name=form.input, shape=[batch, *source.input_size], dtype="float32"),
        output=Port(name=form.output, shape=[batch, *out.shape[1:]], dtype="float32"),
        largest_batch=setting.batch_size if form.plans_memory and made.dynamic_batch else None,
        preprocessing=Preprocessing(
            input_size=list(source.input_size),
            interpolation=config["interpolation"],
            crop_pct=float(config["crop_pct"]),
            crop_mode=config.get("crop_mode") or "center",
            mean=[float(v) for v in config["mean"]],
            std=[float(v) for v in config["std"]],
        ),
        label_names=source.labels.get("label_names"),
        label_descriptions=source.labels.get("label_descriptions"),
        compared=compared,
        versions=versions,
    )
