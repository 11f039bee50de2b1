"""Measuring for real, on a tiny network; nothing is asserted about how long anything takes."""

from __future__ import annotations

import copy
import multiprocessing
import sys
import time

import pytest
import timm
import torch
from torch import nn

import hwprofiles
from hwprofiles import Profile, fresh_process, measure, trace
from hwprofiles.contention import ContentionMeter
from hwprofiles.fresh_process import Fresh
from tests.support.stand_ins import TinyNet

QUICK = {"rounds": 10, "min_s": 0.0}


@pytest.fixture
def no_memory_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the start of another process, which takes seconds."""
    monkeypatch.setattr(fresh_process, "run_fresh", lambda *_: Fresh())


def test_the_profile_holds_every_layer_of_the_model(tiny_profile: Profile, tiny: nn.Module) -> None:
    specs = trace(tiny, torch.rand(1, 3, 8, 8))
    assert {x.signature for x in tiny_profile.layers} == {s.signature for s in specs}
    for layer in tiny_profile.layers:
        names = [s.name for s in specs if s.signature == layer.signature]
        assert layer.count == {"tiny": len(names)}
        assert layer.alone is not None
        assert layer.alone.dense.n >= 10 and layer.alone.dense.median_s > 0
        widths = {(s.in_channels, s.out_channels) for s in layer.alone.samples}
        assert (layer.in_channels, layer.out_channels) in widths
        assert len(widths) >= 3 or "3->16" in layer.signature


def test_counts_and_memory(tiny_profile: Profile, tiny: nn.Module) -> None:
    dense = tiny_profile.dense["tiny"]
    specs = trace(tiny, torch.rand(1, 3, 8, 8))
    assert dense.params == sum(p.numel() for p in tiny.parameters())
    assert dense.macs == sum(s.macs for s in specs)
    assert dense.memory.activation_bytes == sum(s.activation_bytes for s in specs)
    assert dense.memory.peak_measured_bytes is not None
    assert dense.memory.peak_analytic_bytes > dense.memory.parameter_bytes
    assert dense.unattributed_ops == [":flatten"]


def test_facts_for_readers(tiny_profile: Profile) -> None:
    dense = tiny_profile.dense["tiny"]
    assert dense.calls is not None and dense.calls >= 100
    assert dense.p90_s is not None and dense.p99_s is not None and dense.p90_s <= dense.p99_s
    assert dense.first_call_s is not None and dense.load_s is not None
    # Eager mode reads no file and fuses nothing.
    assert dense.file_bytes is None and dense.fused is None


@pytest.mark.usefixtures("no_memory_run")
def test_facts_of_a_runtime_that_reads_a_file(tiny: nn.Module) -> None:
    pytest.importorskip("onnxruntime")
    profile = measure({"tiny": tiny}, (3, 8, 8), runtime="onnxruntime", **QUICK)
    dense = profile.dense["tiny"]
    weights = 4 * sum(p.numel() for p in tiny.parameters())
    assert dense.file_bytes is not None and weights < dense.file_bytes < weights + 4000
    assert dense.fused and "/conv1/Conv + /act/Relu" in dense.fused
    assert dense.first_call_s is None and dense.memory.peak_measured_bytes is None  # not measured


def test_weights_add_up(tiny_profile: Profile) -> None:
    w = tiny_profile.weights
    assert w.share_layers + w.share_macs + w.share_params == pytest.approx(1)
    assert w.alpha + w.parameter_weight == pytest.approx(1)


def test_the_setting_is_recorded(tiny_profile: Profile) -> None:
    assert tiny_profile.name == "cpu-t1-b1"
    assert tiny_profile.workload.input_size == (3, 8, 8)
    assert tiny_profile.created.command == (
        "hwprofiles measure tiny --input-size 3 8 8 --batch-size 1 --device cpu --threads 1 "
        "--dtype float32 --runtime eager"
    )


@pytest.mark.usefixtures("no_memory_run")
def test_another_setting_and_two_models() -> None:
    torch.manual_seed(0)
    models = {"a": TinyNet(16), "b": TinyNet(24)}
    profile = measure(
        models, (3, 8, 8), batch_size=2, dtype="bfloat16", channels_last=True, **QUICK
    )
    assert profile.name == "cpu-t1-b2-bf16-nhwc"
    assert set(profile.dense) == {"a", "b"}
    pool = next(x for x in profile.layers if x.type == "adaptive_avg_pool2d")
    assert pool.count == {"a": 1}
    assert (
        profile.dense["a"].memory.parameter_bytes
        < 2 * sum(p.numel() for p in models["a"].parameters()) + 2 * 16 * 2 + 9
    )


@pytest.mark.usefixtures("no_memory_run")
def test_a_function_that_cannot_be_narrower_and_a_grouped_layer() -> None:
    model = nn.Sequential(
        nn.ZeroPad2d(1), nn.Conv2d(8, 8, 3, groups=4), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
    )
    profile = measure({"grouped": model}, (8, 4, 4), **QUICK)
    assert [x.form for x in profile.layers] == ["channel", "channel", "channel", "dense"]
    assert profile.channel_divisor == 1 and not profile.cost_model.channel_divisor.sweeps


@pytest.mark.usefixtures("no_memory_run")
@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_a_network_without_square_layers_has_a_divisor_too(runtime: str) -> None:
    model = nn.Sequential(nn.Conv2d(16, 48, 1), nn.ReLU(), nn.Conv2d(48, 16, 1))
    profile = measure({"bottleneck": model}, (16, 4, 4), runtime=runtime, **QUICK)
    sweeps = profile.cost_model.channel_divisor.sweeps
    assert len(sweeps) == 2 and all(s.points[-1].channels == 48 for s in sweeps)


@pytest.mark.usefixtures("no_memory_run")
def test_nothing_is_left_changed() -> None:
    torch.manual_seed(3)
    model = TinyNet().train()
    weights = copy.deepcopy(model.state_dict())
    threads = torch.get_num_threads()
    state = torch.random.get_rng_state()
    measure({"tiny": model}, (3, 8, 8), threads=1, **QUICK)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads and model.training
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size: 0, allowed is 1 or more"),
        ({"input_size": (3, 8)}, r"input_size: \(3, 8\), allowed are three"),
        ({"dtype": "int8"}, "dtype: 'int8', allowed are float32, bfloat16"),
        ({"device": "tpu"}, "device: 'tpu'"),
        ({"threads": 0}, "threads: 0"),
        ({"models": {}}, "models: none given"),
        ({"rounds": 3}, "rounds: 3, allowed is 10 or more"),
    ],
)
def test_settings_that_are_not_allowed(
    tiny: nn.Module, settings: dict[str, object], message: str
) -> None:
    given = {"models": {"tiny": tiny}, "input_size": (3, 8, 8), **settings}
    with pytest.raises(ValueError, match=message):
        measure(**given)  # type: ignore[arg-type]


def test_time_models_times_each_and_changes_none(tiny: nn.Module) -> None:
    x = torch.rand(2, 3, 8, 8)
    tiny.train()
    names = list("abcdefgh")
    times = hwprofiles.time_models({n: (tiny, x) for n in names}, rounds=10, channels_last=True)
    assert list(times) == names and tiny.training
    for m in times.values():
        assert m.n >= 10 and 0 < m.q25_s <= m.median_s <= m.q75_s
        assert m.verdict in ("ok", "noisy")
    with pytest.raises(ValueError, match="models: none given"):
        hwprofiles.time_models({})


@pytest.mark.gpu
def test_measuring_on_a_gpu() -> None:
    profile = measure({"tiny": TinyNet()}, (3, 8, 8), device="cuda", batch_size=8, **QUICK)
    assert profile.name == "cuda-b8" and profile.workload.device == "cuda"
    assert profile.protocol.timer == "cuda events" and profile.check() == []
    assert profile.dense["tiny"].memory.peak_measured_bytes


def test_others_on_the_cores_during_the_sweep_are_seen(
    tiny: nn.Module, no_memory_run: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([1.5])
    monkeypatch.setattr(ContentionMeter, "read", lambda self, threads: next(found, 0.0))
    profile = measure({"tiny": tiny}, (3, 8, 8), **QUICK)
    assert profile.cost_model.channel_divisor.sweeps
    assert (profile.protocol.verdict, profile.protocol.contention) == ("noisy", 1.5)


def _burn(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(10_000))


@pytest.mark.slow
@pytest.mark.parametrize("hogs", [1, hwprofiles.usable_cores()], ids=["one", "all cores"])
@pytest.mark.parametrize("threads", [1, hwprofiles.usable_cores()], ids=["t1", "all threads"])
def test_a_busy_machine_agrees_or_is_called_noisy(threads: int, hogs: int) -> None:
    """Hogs on one or every core: within 10 % of the quiet profile, or flagged; never silently
    wrong."""
    model = {"resnet18": timm.create_model("resnet18")}
    quiet = measure(model, (3, 96, 96), threads=threads)
    processes = [
        multiprocessing.Process(target=_burn, args=(1800,), daemon=True) for _ in range(hogs)
    ]
    for hog in processes:
        hog.start()
    try:
        busy = measure(model, (3, 96, 96), threads=threads)
    finally:
        for hog in processes:
            hog.terminate()
            hog.join()
    if threads + hogs > hwprofiles.usable_cores() and sys.platform == "linux":
        assert busy.protocol.verdict == "noisy"
        # Shared fairly, so much of the cores that were wanted goes to the hogs.
        lost = threads * (1 - hwprofiles.usable_cores() / (threads + hogs))
        assert busy.protocol.contention is not None and busy.protocol.contention > 0.75 * lost
    if "noisy" not in (quiet.protocol.verdict, busy.protocol.verdict):
        a, b = quiet.dense["resnet18"].median_s, busy.dense["resnet18"].median_s
        assert b == pytest.approx(a, rel=0.1)
