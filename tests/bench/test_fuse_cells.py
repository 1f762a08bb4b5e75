"""The benchmark of fuse(): it refuses what is wrong, its variants take turns, and ratios are of the best formats."""

import json

import fuse
import pytest
import support.fuse_cells
import torch
from bench_command import run
from torch import nn

TRAINING = "forward + backward"


@pytest.fixture
def fuse_cells(monkeypatch):
    fuse_cells = support.fuse_cells
    monkeypatch.setattr(fuse_cells, "TINY", True)
    fuse_cells._make_network.cache_clear()
    fuse_cells._compute_exact.cache_clear()
    yield fuse_cells
    fuse_cells._make_network.cache_clear()
    fuse_cells._compute_exact.cache_clear()


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("direction", ["forward", TRAINING])
@pytest.mark.parametrize("network", ["nnunet", "vgan-generator", "convlstm"])
def test_what_fuse_gives_is_accepted(fuse_cells, network, direction, dtype):
    found = fuse_cells.time_cell(fuse_cells.Cell(network, direction, dtype, 1), rounds=2)
    assert len(found) == 4 and all(len(seconds) == 2 and min(seconds) > 0 for seconds in found.values())


def scale_output(network):
    """A last layer that is wrong by a tenth."""
    last = [module for module in network.modules() if isinstance(module, nn.Conv3d | nn.Conv2d)][-1]
    last.register_forward_hook(lambda module, inputs, output: output * 1.1)
    return network


def drop_gradient(network):
    """A first layer whose weight has no gradient."""
    first = next(module for module in network.modules() if isinstance(module, nn.Conv3d | nn.Conv2d))
    first.weight.register_hook(torch.zeros_like)
    return network


def change_momentum(network):
    """Batch norms that move their statistics less."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.momentum = 0.05
    return network


@pytest.mark.parametrize(
    ("wrong", "direction", "message"),
    [
        (scale_output, "forward", "our output is off"),
        (scale_output, TRAINING, "our output is off"),
        (drop_gradient, TRAINING, "our gradient is off by 1,"),
        (change_momentum, TRAINING, "our batch statistic is off"),
    ],
)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_what_is_wrong_is_not_timed(fuse_cells, monkeypatch, wrong, direction, message, dtype):
    monkeypatch.setattr(fuse_cells, "fuse", wrong)
    with pytest.raises(AssertionError, match=message):
        fuse_cells.time_cell(fuse_cells.Cell("unet3d", direction, dtype, 1), rounds=1)


def test_threads_are_those_of_the_cell_and_then_those_of_before(fuse_cells):
    before = torch.get_num_threads()
    with fuse_cells.torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_variants_take_turns_and_each_is_first_in_turn(fuse_cells):
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in "abc"}
    found = fuse_cells._time_in_turns(runs, 3)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(seconds) for name, seconds in found.items()} == dict.fromkeys("abc", 3)


def test_rounds_go_on_while_the_times_spread(fuse_cells):
    steady, spread = [1.0, 1.001] * 6, [1.0, 1.5] * 6
    assert not fuse_cells._is_enough({"a": steady[:11]}, 60, None)
    assert not fuse_cells._is_enough({"a": steady}, 0.5, None)
    assert fuse_cells._is_enough({"a": steady}, 2, None)
    assert not fuse_cells._is_enough({"a": steady, "b": spread}, 2, None)
    assert fuse_cells._is_enough({"a": steady, "b": spread}, 10, None)
    assert fuse_cells._is_enough({"a": spread[:3]}, 0, 3)


def test_a_ratio_is_of_the_medians_in_the_better_formats(fuse_cells):
    stock, fused = "stock", "fused"
    found = {
        (stock, "contiguous"): [0.030, 0.010, 0.012],
        (stock, "channels_last"): [0.020, 0.020, 0.020],
        (fused, "contiguous"): [0.050, 0.001, 0.040],
        (fused, "channels_last"): [0.008, 0.008, 0.008],
    }
    row = fuse_cells.row_of(fuse_cells.Cell("vnet", "forward", "bf16", 2), found)
    assert row["stock_ms"] == {"contiguous": 12, "channels_last": 20}
    assert row["fused_ms"] == {"contiguous": 40, "channels_last": 8}
    assert (row["ratio"], row["rounds"], row["network"], row["threads"]) == (1.5, 3, "vnet", 2)


def test_the_command_writes_rows_and_prints_tables(tmp_path):
    file, part = tmp_path / "all.json", tmp_path / "part.json"
    text = run(
        "bench/fuse.py", "--out", file, "--only", "dcgan", "mocogan-image", "--threads", 1, FASTVGAN_BENCH_TINY="1"
    )
    assert "mocogan-image, forward + backward, bf16, 1 thread: " in text and "geometric mean of 8: " in text
    found = json.loads(file.read_text(encoding="utf-8"))
    assert {"cpu", "amx", "commit", "date", "versions"} <= set(found) and not found["failed"]
    assert [(row["direction"], row["dtype"]) for row in found["rows"][:4]] == [
        *(("forward", dtype) for dtype in ("fp32", "bf16")),
        *((TRAINING, dtype) for dtype in ("fp32", "bf16")),
    ]
    part.write_text(json.dumps({**found, "rows": [{**found["rows"][0], "ratio": 3.0}]}), encoding="utf-8")
    lines = fuse.as_markdown(*fuse.read([file, part]))  # of a cell measured twice the last row
    table = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ") and "---" not in line]
    _, mocogan, dcgan, last = table
    assert mocogan[0].startswith("MoCoGAN") and dcgan[0].startswith("DCGAN") and dcgan[1] == "3.00"
    mean = fuse.geometric_mean([3.0, found["rows"][4]["ratio"]])
    assert last[:2] == ["geometric mean", f"{mean:.2f}"]
    part.write_text(json.dumps({**found, "commit": "another"}), encoding="utf-8")
    with pytest.raises(fuse.UserError, match="is from another machine, commit"):
        fuse.read([file, part])
    assert "nowhere.json: No such file" in run("bench/fuse.py", "--from", tmp_path / "nowhere.json", status=2)


def test_means_and_the_worst():
    ms = {"stock_ms": {"contiguous": 2.0, "channels_last": 1.0}, "fused_ms": {"contiguous": 2.0, "channels_last": 4.0}}
    rows = [
        {"network": "vnet", "direction": "forward", "dtype": dtype, "threads": 1, "ratio": ratio, **ms}
        for dtype, ratio in (("fp32", 0.5), ("bf16", 2.0))
    ]
    first, second = fuse.means(rows)
    assert first == "geometric mean of 2: 1.000x, fp32 0.500x, bf16 2.000x"
    assert second.startswith("below 0.98x: 1 of 2; lowest 0.50x, vnet, forward, fp32, 1 thread (stock 2.0 / 1.0 ms")
    assert fuse.means([]) == ["no results"]


@pytest.mark.slow
def test_pytest_reports_the_rounds_that_were_measured_together(tmp_path):
    found = tmp_path / "found.json"
    options = "-q", "--benchmark-only", f"--benchmark-json={found}", "-p", "no:cacheprovider"
    run("-m", "pytest", "bench/test_fuse.py", *options, "-k", "dcgan-forward-fp32-1thread")
    benchmarks = json.loads(found.read_text(encoding="utf-8"))["benchmarks"]
    assert len(benchmarks) == 4 and all(b["stats"]["median"] > 0 for b in benchmarks)
    assert {b["group"] for b in benchmarks} == {"fuse: dcgan, forward, fp32, 1 thread"}
    text = run("bench/report.py", "--from", found, "--out", tmp_path)
    assert "x best stock (≥ 0.98)" in text and "in the geometric mean" in text
