"""A profile: what every layer of some models costs on one device, in one setting."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Literal, Self

import pandas as pd
import torch
from pydantic import Field, field_validator, model_validator

from hwprofiles.device import Difference, Fingerprint, differences, fingerprint
from hwprofiles.fields import MAX_NAME, Section, printable
from hwprofiles.layer_table import layer_table
from hwprofiles.layers import Coefficients, LayerSpec
from hwprofiles.network_table import network_table
from hwprofiles.runtimes import find_runtime
from hwprofiles.runtimes.base import Setting
from hwprofiles.schema import (
    Calibration,
    CostModel,
    Created,
    EndToEnd,
    LayerProfile,
    Protocol,
    Schema,
    Units,
    Weights,
    Workload,
)
from hwprofiles.schema_validation import Validation
from hwprofiles.trust import doubts, impossible


class ProfileError(ValueError):
    """A profile file that cannot be used, in one line."""


class Profile(Section):
    """Costs of layers on one device in one setting. ``load`` reads one, ``save`` writes one."""

    schema_: Schema = Field(alias="schema", default_factory=Schema)
    name: str = Field(min_length=1, max_length=MAX_NAME)
    created: Created
    fingerprint: Fingerprint
    workload: Workload
    protocol: Protocol
    units: Units
    weights: Weights
    cost_model: CostModel
    layers: list[LayerProfile] = Field(min_length=1)
    dense: dict[str, EndToEnd] = Field(min_length=1)
    validation: list[Validation] = Field(default_factory=list)

    @field_validator("name")
    @classmethod
    def _one_line(cls, value: str) -> str:
        return printable(value)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        signatures = [layer.signature for layer in self.layers]
        if len(set(signatures)) != len(signatures):
            twice = next(s for s in signatures if signatures.count(s) > 1)
            raise ValueError(f"layers: {twice} is listed twice")
        if set(self.dense) != set(self.workload.models):
            raise ValueError(
                f"dense: holds {sorted(self.dense)}, workload.models {sorted(self.workload.models)}"
            )
        by = self.calibration
        if by.layers and set(by.layers) != set(signatures):
            raise ValueError("cost_model.calibration.layers: not the signatures of layers")
        if not by.layers and (by.scale is None or any(x.alone is None for x in self.layers)):
            raise ValueError("cost_model.calibration: layers have no cost, alone or in networks")
        strangers = {m for layer in self.layers for m in layer.count} - set(self.dense)
        if strangers:
            raise ValueError(f"layers: count names {sorted(strangers)}, not in workload.models")
        widths = [(x.signature, x.in_channels, x.out_channels) for x in self.layers]
        if not any(self.cost(s).at(i, o) for s, i, o in widths):
            raise ValueError("layers: all of them cost nothing")
        return self

    def __repr__(self) -> str:
        w, device = self.workload, self.fingerprint.device
        models = ", ".join(w.models)
        return (
            f"Profile {self.name!r} of {device.name}, fingerprint {self.fingerprint_id}\n"
            f"  setting: {w.runtime}, {w.device}, {w.threads} thread(s), batch {w.batch_size},"
            f" {w.dtype}; {models}\n"
            f"  {len(self.layers)} layers, channel divisor {self.channel_divisor},"
            f" verdict {self.protocol.verdict}"
        )

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """For notebooks: the three lines, and the table of layers."""
        with pd.option_context("display.max_colwidth", None):  # else signatures are cut short
            table = self.to_frame().to_html(escape=True)
        return f"<pre>{html.escape(repr(self))}</pre>{table}"

    def to_frame(self, of: Literal["layers", "networks"] = "layers") -> pd.DataFrame:
        """A row a layer in the file's order, or a row an uncut network.

        Columns of layers: signature, type, form, runs (in all models), macs, params,
        activation_bytes, dense_s (median seconds a call alone at full width, in eager mode), q25_s,
        q75_s, spread ((q75_s - q25_s) / dense_s), n (readings), fit_error (mean relative error at
        the samples), all NaN where it was not timed alone; and const_s, per_in_s, per_out_s,
        per_in_out_s, what it adds to a network.

        Columns of networks: model, median_s, q25_s, q75_s, n, p90_s, p99_s, calls (single ones,
        that these two are of), first_call_s, load_s, file_bytes, peak_bytes, peak_analytic_bytes,
        parameter_bytes, macs, params, fused (groups of layers that run as one). What is not known
        is NaN.

        Raises:
            ValueError: there is no such table.
        """
        if of not in ("layers", "networks"):
            raise ValueError(f"of: {of!r}, allowed are layers and networks")
        if of == "networks":
            return network_table(self.dense)
        return layer_table(self.layers, self.cost)

    @property
    def kappa(self) -> float:
        """Layer constant."""
        return self.weights.kappa

    @property
    def alpha(self) -> float:
        """Compute weight; the parameter weight is 1 - alpha."""
        return self.weights.alpha

    @property
    def channel_divisor(self) -> int:
        """Widths at multiples of this are the fast ones."""
        return self.cost_model.channel_divisor.value

    @property
    def calibration(self) -> Calibration:
        """How whole networks relate to the sum of their layers."""
        return self.cost_model.calibration

    @property
    def fingerprint_id(self) -> str:
        """Short hash of the machine and software."""
        return self.fingerprint.id

    def layer(self, signature: str) -> LayerProfile:
        """All that is known of a layer.

        Raises:
            ProfileError: the profile does not hold it.
        """
        for layer in self.layers:
            if layer.signature == signature:
                return layer
        raise MissingLayers([signature], self)

    def cost(self, signature: str) -> Coefficients:
        """Seconds that a layer adds to a network as a function of the widths.

        The sum of these over a network's layers is the network's latency.

        Raises:
            ProfileError: the profile does not hold the layer.
        """
        layer, by = self.layer(signature), self.calibration
        if by.layers:
            c, factor = by.layers[signature], 1.0
        else:  # one of the two is there, see _consistent
            assert layer.alone is not None and by.scale is not None
            c, factor = layer.alone.coefficients, by.scale
        return Coefficients(
            factor * c.const_s, factor * c.per_in_s, factor * c.per_out_s, factor * c.per_in_out_s
        )

    def latency_s(self, signature: str, in_channels: int, out_channels: int) -> float:
        """Seconds a call at widths inside the measured range, calibrated.

        Raises:
            ProfileError: an unknown layer, or widths that would be extrapolated.
        """
        layer = self.layer(signature)
        given = {"in_channels": in_channels, "out_channels": out_channels}
        for field, value in given.items():
            low, high = getattr(layer.fit_range, field)
            if not low <= value <= high:
                raise ProfileError(
                    f"{field}: {value} of {signature} was not measured, allowed is {low}..{high}"
                )
        return self.cost(signature).at(in_channels, out_channels)

    def missing(self, specs: Iterable[LayerSpec]) -> list[str]:
        """Signatures among ``specs`` that the profile does not hold, each once."""
        known = {layer.signature for layer in self.layers}
        return [s for s in dict.fromkeys(spec.signature for spec in specs) if s not in known]

    def predict_s(self, specs: Iterable[LayerSpec]) -> float:
        """Seconds a forward pass of the dense network of these layers takes, calibrated.

        Raises:
            ProfileError: layers that the profile does not hold.
        """
        specs = list(specs)
        missing = self.missing(specs)
        if missing:
            raise MissingLayers(missing, self)
        return self.network_s((s.signature, s.in_channels, s.out_channels) for s in specs)

    def network_s(self, executed: Iterable[tuple[str, float, float]]) -> float:
        """Seconds a call of a network that runs these layers at these widths, calibrated.

        Args:
            executed: (signature, in_channels, out_channels) of every layer that runs.

        Raises:
            ProfileError: a layer that the profile does not hold.
        """
        rows = list(executed)
        costs = {signature: self.cost(signature) for signature, _, _ in rows}
        return sum(costs[s].at(i, o) for s, i, o in rows)

    def check(self) -> list[Difference]:
        """Where this machine and its software differ from the ones the profile was made on."""
        w = self.workload
        if w.device == "cuda" and not torch.cuda.is_available():
            return [Difference("device.name", self.fingerprint.device.name, "no CUDA device")]
        try:
            runtime = find_runtime(w.runtime)
        except ValueError:
            return [Difference("runtime.name", w.runtime, "not installed")]
        here = runtime.fingerprint(setting_of(w))
        return differences(self.fingerprint, fingerprint(w.device, here))

    def require_possible(self, source: str | None = None) -> Self:
        """The same profile, if its networks take about as long as their layers.

        Args:
            source: what the message begins with; default is the profile's name.

        Raises:
            ProfileError: the layers' sum or the scale is outside 0.5 to 2.
        """
        reason = impossible(self.workload, self.calibration, self.dense)
        if reason is not None:
            raise ProfileError(
                f"{source or f'profile {self.name}'}: {reason}; measure it anew on a machine that "
                "does nothing else"
            )
        return self

    def doubts(self) -> list[str]:
        """What to know before the profile is trusted, a clause each; empty: nothing."""
        return doubts(self.created, self.protocol, self.calibration, self.dense, self.validation)


def setting_of(workload: Workload) -> Setting:
    """The setting that a workload names, as runtimes take it."""
    w = workload
    return Setting(
        torch.device(w.device), getattr(torch, w.dtype), w.batch_size, w.channels_last, w.threads
    )


def describe_setting(profile: Profile) -> str:
    """A profile's setting in words, such as 'onnxruntime, cpu, 1 thread, batch 1, float32'."""
    return f"{profile.workload.runtime}, {setting_of(profile.workload).words}"


class MissingLayers(ProfileError):
    """Layers that a profile does not hold. They never cost zero."""

    def __init__(self, signatures: list[str], profile: Profile) -> None:
        self.signatures = signatures
        w = profile.workload
        size = " ".join(map(str, w.input_size))
        more = len(signatures) - 1
        super().__init__(
            f"profile {profile.name} does not hold {len(signatures)} layer(s): {signatures[0]}"
            f"{f' and {more} more' if more else ''}. Measure them with: hwprofiles measure MODEL "
            f"--input-size {size} --batch-size {w.batch_size} --threads {w.threads} --dtype "
            f"{w.dtype} --runtime {w.runtime} -o FILE.yaml"
        )
