"""The model of a step on N devices, against what processes really exchange, known answers and measured steps."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import scaling
import torch
from bench_command import ROOT, run
from torch.profiler import ProfilerActivity, profile

from fastvgan.data import open_source
from fastvgan.errors import UserError
from fastvgan.runs.presets import PRESETS


@pytest.fixture
def one_thread():
    """What one process of several has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cost_of(*work, gradients=0, batch=4):
    from step_cost import Fixed

    fixed = Fixed((gradients // 8, gradients // 8), 3 * gradients, gradients, 0)
    return scaling.StepCost(batch, work, fixed)


@pytest.mark.parametrize("family", ["conv3d", "recurrent"])
def test_two_processes_exchange_what_the_model_counts(one_thread, family):
    """Every all-reduce of a step of two real processes, as the profiler sees them in one."""
    from support.peers import start_peers
    from support.sweep import Point, Sizes, config_of

    sizes = Sizes(4, 16, 8, 4, processes=2)
    with start_peers(Point(family, "processes", sizes)) as (run, _):
        run()
        run()  # DistributedDataParallel reorders its buckets after the first step
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            run()
    found = [e.input_shapes[0] for e in profiler.events() if e.name == "gloo:all_reduce"]
    cost = scaling.count_cost(config_of(family, sizes, sizes.batch), sizes.batch, torch.float32)
    statistics = [shape for shape in found if len(shape) == 2]
    gradients = [shape[0] for shape in found if len(shape) == 1]
    flags = [shape for shape in found if not shape]
    assert len(statistics) == cost.norms
    assert 4 * sum(gradients) == cost.fixed.gradients
    assert len(gradients) == cost.fixed.buckets
    assert len(flags) == scaling._FLAGS


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_bytes_of_a_ring(processes):
    """Sent one by one: every process passes on sums of parts until one has each, then passes these on."""
    numbers = 24 * processes
    rng = np.random.default_rng(0)
    held = [rng.standard_normal(numbers).astype(np.float32).reshape(processes, -1) for _ in range(processes)]
    expected, sent = sum(x.astype(np.float64) for x in held), np.zeros(processes, dtype=int)
    for adds in (True, False):
        for turn in range(processes - 1):
            parts = [(rank - turn + (not adds)) % processes for rank in range(processes)]
            messages = [held[rank][part].copy() for rank, part in enumerate(parts)]
            for rank, (part, message) in enumerate(zip(parts, messages, strict=True)):
                sent[rank] += message.nbytes
                there = held[(rank + 1) % processes]
                there[part] = there[part] + message if adds else message
    for each in held:
        np.testing.assert_allclose(each, expected, rtol=1e-4, atol=1e-5)
    assert set(sent) == {scaling.count_exchanged_bytes(cost_of(gradients=4 * numbers), processes)}


def test_bytes_of_clips_are_those_of_real_ones():
    model = PRESETS["digits"].model.model_copy(update={"frames": 5, "width": 32})
    source = open_source(PRESETS["digits"].data, model)
    clips = source.draw(torch.zeros(3, source.draws, dtype=torch.int64))
    assert scaling.count_decoded_bytes(model) == clips.video[0].nbytes
    assert scaling.count_decoded_bytes(model, frames=10) == 2 * clips.video[0].nbytes


def test_bytes_of_h264_are_those_of_the_bits_of_a_file(tmp_path):
    from fastvgan.files.encoding import encode

    model = PRESETS["clips-64"].model
    frames = np.random.default_rng(0).integers(0, 256, (model.frames, 64, 64, 3), dtype=np.uint8)
    encode(tmp_path / "clip.mp4", frames, 25)
    size = (tmp_path / "clip.mp4").stat().st_size
    assert scaling.count_encoded_bytes(model, 8 * size / (model.frames * 64 * 64)) == size


def test_rates_that_made_samples_are_found():
    rng = np.random.default_rng(0)
    true = np.array([1 / 5e14, 1 / 3e12, 2e-6])
    table = np.exp(rng.uniform(np.log([1e9, 1e6, 1]), np.log([1e12, 1e9, 500]), (30, 3)))
    samples = [(*row, row @ true) for row in table]
    found = scaling.fit(samples)
    np.testing.assert_allclose([found.per_flop, found.per_byte, found.per_operation], true, rtol=1e-6)
    assert max(map(abs, scaling.cross_validate(samples))) < 1e-6


def test_no_rate_is_negative():
    """Where a plain least-squares fit has a negative one, as numpy's shows."""
    table = np.array([[1, 1, 1], [2, 5, 1], [4, 9, 1], [8, 20, 1]], dtype=float)
    seconds = table @ [3.0, -1.0, 2.0]
    plain = np.linalg.lstsq(table / seconds[:, None], np.ones(4), rcond=None)[0]
    assert min(plain) < 0
    found = scaling.fit([(*row, s) for row, s in zip(table, seconds, strict=True)])
    assert min(found.per_flop, found.per_byte, found.per_operation) >= 0
    assert any((found.per_flop, found.per_byte, found.per_operation))
    for samples in ([], [(1.0, 1.0, 1.0, 0.0)]):
        with pytest.raises(ValueError, match="at least one sample"):
            scaling.fit(samples)


def test_a_step_is_the_sum_of_its_operations_and_of_its_collectives():
    """By hand: 3 and 64 channels in tiles of 64, one other operation, a view; two processes that send one gradient."""
    products = scaling.Work("fastvgan::conv_up", 3 * 64 * 1000, 2000, (3, 64), 0)
    other, view = scaling.Work("aten::add", 0, 4000, (), 0), scaling.Work("aten::view", 0, 0, (), 0)
    norm = scaling.Work("fastvgan::norm_act", 0, 1000, (), 7)
    cost = cost_of(products, other, view, norm, gradients=8000)
    rates = scaling.Rates(1e-9, 1e-6, 1e-3, tile=64)
    device = scaling.Device("d", rates, scaling.Rates(0.0, 1e-6, 1e-3), input_gb_per_s=1.0)
    alone = 64 * 64 * 1000 * 1e-9 + 7000e-6 + 3e-3
    assert scaling.step_seconds(cost, device) == pytest.approx(alone)
    assert sum(scaling.parts_of_step(cost, device).values()) == pytest.approx(alone)
    network = scaling.Network("n", bytes_per_s=1e6, latency=1e-3, hidden=0.25)
    predicted = scaling.predict(cost, PRESETS["reference"].model, device, network, 2)
    # 8,000 bytes and a bucket for each network, of which a quarter is hidden; one norm and three flags.
    assert predicted["step_s"] == pytest.approx(alone + 0.75 * (8e-3 + 2e-3) + 4e-3)
    assert predicted["videos_per_s"] == pytest.approx(2 * 4 / predicted["step_s"])
    assert predicted["efficiency"] == pytest.approx(alone / predicted["step_s"])
    assert scaling.memory_bytes(cost, on_gpu=False) == 3 * 8000 + 8000 + 7


def test_data_that_comes_too_slowly_sets_the_step():
    model = PRESETS["clips-64"].model
    cost = cost_of(scaling.Work("aten::add", 0, 4000, (), 0), batch=32)
    device = scaling.Device("d", scaling.Rates(0, 0, 1e-6), scaling.Rates(0, 0, 1e-6), input_gb_per_s=1e-3)
    predicted = scaling.predict(cost, model, device, scaling.NVLINK, 1)
    assert predicted["first"] == "data" and predicted["step_s"] == pytest.approx(32 * 16 * 64 * 64 * 3 / 1e6)


def test_flops_of_measured_passes_are_those_of_torchs_counter():
    from torch.utils.flop_counter import FlopCounterMode

    rows = [row for row in json.loads(scaling.PASSES.read_text(encoding="utf-8"))["passes"] if row["pass"] == "forward"]
    assert len(rows) == 20
    for row in rows:
        kind = torch.nn.ConvTranspose3d if row["transposed"] else torch.nn.Conv3d
        geometry = row["inputs"], row["outputs"], row["kernel"], row["stride"], row["padding"]
        layer = kind(*geometry, bias=False, device="meta", dtype=torch.bfloat16)
        x = torch.empty(row["batch"], row["inputs"], *[row["size"]] * 3, device="meta", dtype=torch.bfloat16)
        with FlopCounterMode(display=False) as counter:
            y = layer(x)
        work = scaling.work_of_pass(row)
        assert work.flops == counter.get_total_flops()
        assert work.bytes == x.nbytes + y.nbytes + layer.weight.nbytes


def test_the_h100_is_off_by_no_more_than_the_page_says():
    """Rates come from single passes, and steps are predicted; see docs/explanation/scaling.md."""
    measured = {"reference": 1.8512, "clips-64": 7.1019}  # breakdown-h100.json, by auto, commit 9960e60
    page = (ROOT / "docs" / "explanation" / "scaling.md").read_text(encoding="utf-8")
    then = {"upsampling": "transposed", "time_margin": False, "d_bias": False}  # as the presets were when measured
    for name, milliseconds in measured.items():
        config = PRESETS[name]
        config = config.model_copy(update={"model": config.model.model_copy(update=then)})
        cost = scaling.count_cost(config, config.training.batch_size)
        predicted = 1e3 * scaling.step_seconds(cost, scaling.h100())
        error = predicted / milliseconds - 1
        assert f"{name} {milliseconds:.2f} ms, predicted {predicted:.1f} ms ({error:+.0%})" in page


def test_a_file_of_passes_without_the_rate_of_copies_is_named(tmp_path, monkeypatch):
    (tmp_path / "convs.json").write_text('{"device": "a GPU", "passes": []}', encoding="utf-8")
    monkeypatch.setattr(scaling, "PASSES", tmp_path / "convs.json")
    with pytest.raises(UserError, match="have no copy_gb_per_s, which bench/gpu.sh convs does not write"):
        scaling.h100()


def test_rates_are_fitted_to_sweeps_by_the_command(tmp_path):
    """On steps that known rates made: they come out again, whichever of the two files has them."""
    from support.sweep import BASE

    rates = scaling.Rates(1e-11, 1e-9, 1e-5)
    steps = []
    for frames, width in ((4, 4), (8, 2), (4, 8), (8, 8), (16, 4)):
        sizes = {**vars(replace(BASE["conv3d"], frames=frames, size=16, width=width, batch=4)), "processes": 1}
        row = {"family": "conv3d", "dimension": "width", "sizes": sizes, "dtype": "fp32", "peak_bytes": 10**7}
        flops, moved, operations, _ = scaling.sample_of(scaling.cost_of(row), 1.0)
        seconds = rates.per_flop * flops + rates.per_byte * moved + rates.per_operation * operations
        steps.append({**row, "step_ms": 1e3 * seconds})
    other = {**steps[0], "sizes": {**steps[0]["sizes"], "processes": 2}, "step_ms": 1e9}
    gpu = {"device": "cpu", "steps": [*steps[1:], other, {**steps[1], "step_ms": 1e6}]}
    facts = {**{k: v for k, v in steps[0].items() if k != "step_ms"}}
    timed = [
        {"extra_info": facts, "stats": {"min": steps[0]["step_ms"] / 1e3}},
        {"extra_info": {}, "stats": {"min": 1.0}},
    ]
    of_pytest = {"machine_info": {"fastvgan": {"device": "cpu"}}, "benchmarks": timed}
    paths = tmp_path / "gpu.json", tmp_path / "pytest.json"
    for path, content in zip(paths, (gpu, of_pytest), strict=True):
        path.write_text(json.dumps(content), encoding="utf-8")
    lines = scaling.fit_sweeps(paths)
    assert "0.1 TFLOP/s, 1 GB/s, 10 us per operation" in lines[-2]
    assert lines[-1] == "off by 0% (median), 0% (worst)"
    assert len(lines) == 1 + len(steps) + 2


def test_the_command_prints_each_preset():
    text = run("bench/scaling.py", "--presets", "reference", "--gpus", "1", "8", "64")
    head, *rows = text.splitlines()
    assert head.split()[:2] == ["preset", "GPUs"] and [row.split()[:2] for row in rows] == [
        ["reference", n] for n in ("1", "8", "64")
    ]
    steps = [float(row.split()[2]) for row in rows]
    assert steps == sorted(steps) and math.isfinite(steps[-1])


@pytest.mark.slow
def test_the_sweep_runs_at_tiny_sizes(tmp_path):
    """Every point that pytest-benchmark would time, two processes among them."""
    target = tmp_path / "scale.json"
    options = "-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--benchmark-json={target}", "-k", "recurrent"
    run("-m", "pytest", "bench/test_scale.py", *options, FASTVGAN_BENCH_TINY="1")
    rows = [b["extra_info"] for b in json.loads(target.read_text(encoding="utf-8"))["benchmarks"]]
    assert {row["dimension"] for row in rows} == {"base", "frames", "size", "width", "batch", "processes"}
    base = next(row["sizes"] for row in rows if row["dimension"] == "base")
    for row in rows:
        changed = {name for name, value in row["sizes"].items() if value != base[name]}
        assert changed == set() if row["dimension"] == "base" else changed == {row["dimension"]}


def test_a_peer_that_fails_is_an_error_here(one_thread):
    from support.peers import _start_processes

    with pytest.raises(RuntimeError, match="another process"):
        with _start_processes(2, '{"family": "none", "dimension": "base", "sizes": {}}'):
            pass
