"""What auto takes on a GPU, against the measurements it comes from; no GPU is needed for any of it."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fastvgan_kernels import conv_down, conv_up
from fastvgan_kernels.conv.stock import joint
from fastvgan_kernels.fused_conv import Geometry, fused_conv
from fastvgan_kernels.measured import on_gpu, rules
from fastvgan_kernels.measured.capture import launches_are_captured
from fastvgan_kernels.measured.rules import Problem
from fastvgan_kernels.triton import tuning

ROOT = Path(__file__).resolve().parents[2]
H100, B200, A100 = (9, 0), (10, 0), (8, 0)
LAST = {"memory_format": torch.channels_last_3d}


def script(name):
    """A file of bench/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "bench" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


gpu_rules = script("gpu_rules")
CONVS = json.loads(gpu_rules.CONVS.read_text(encoding="utf-8"))
TILES = json.loads(gpu_rules.TILES.read_text(encoding="utf-8"))
MORE = [json.loads(path.read_text(encoding="utf-8")) for path in gpu_rules.MORE]
PASSES = CONVS["passes"]


def problem(entry):
    operation, sizes = gpu_rules.problem_of(entry)
    return Problem(operation, CONVS["dtype"], *sizes)


def choose(entry):
    return rules.choose(H100, problem(entry)).impl


def milliseconds(entry):
    """The time of the chosen implementation, and that of stock PyTorch in its better memory format."""
    stock = min(entry["stock_ms"].values())
    return (entry["triton_ms"] if choose(entry) == "triton" else stock), stock


def name_entry(entry):
    return f"{entry['layer']}-{entry['pass'].replace(' ', '-')}"


def test_the_measurement_is_of_the_geometry_it_is_noted_with():
    """The share of GEMM that was noted is what these sizes and this time give."""
    for entry in PASSES:
        small = entry["size"] if entry["transposed"] else entry["size"] // entry["stride"]
        large, places = small * entry["stride"], range(entry["kernel"])
        inside = sum(0 <= i * entry["stride"] - 1 + j < large for i in range(small) for j in places)
        flops = 2 * entry["batch"] * entry["inputs"] * entry["outputs"] * inside**3
        share = flops / entry["triton_ms"] / 1e9 / CONVS["gemm_tflops"]
        assert share == pytest.approx(entry["share_of_gemm"]["triton"], abs=0.012), name_entry(entry)


@pytest.mark.parametrize("entry", PASSES, ids=name_entry)
def test_no_measured_pass_is_chosen_to_lose(entry):
    mine, stock = milliseconds(entry)
    assert mine <= stock / 0.97
    assert (choose(entry) == "triton") == (entry["triton_ms"] < stock)


def test_all_passes_together_take_what_the_faster_of_each_takes():
    mine, stock = (sum(column) for column in zip(*map(milliseconds, PASSES), strict=True))
    assert len(PASSES) == 60
    assert mine == pytest.approx(sum(min(e["triton_ms"], *e["stock_ms"].values()) for e in PASSES))
    assert stock / mine == pytest.approx(1.416, abs=0.005)
    assert math.prod((s / m) ** (1 / 60) for m, s in map(milliseconds, PASSES)) == pytest.approx(1.370, abs=0.005)


def test_the_generated_file_is_up_to_date():
    assert gpu_rules.OUT.read_text(encoding="utf-8") == gpu_rules.generate_rules(CONVS, TILES, MORE)


def test_other_measurements_make_other_rules(tmp_path):
    changed = {**CONVS, "passes": [dict(entry, triton_ms=entry["triton_ms"] / 3) for entry in PASSES]}
    (tmp_path / "convs.json").write_text(json.dumps(changed))
    command = [gpu_rules.__file__, "--convs", tmp_path / "convs.json", "--out", tmp_path / "h100.py"]
    subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True)
    found = {}
    exec((tmp_path / "h100.py").read_text(encoding="utf-8"), found)
    ratios = [row[-1] for name in gpu_rules.OPERATIONS[:3] for row in found["PROBLEMS"][name]]
    assert min(ratios) > 1.19 and len(ratios) == 48
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "_MEASURED", (SimpleNamespace(**found),))
        rules.choose.cache_clear()
        assert {choose(entry) for entry in PASSES} == {"triton"}
    rules.choose.cache_clear()
    assert {choose(entry) for entry in PASSES} == {"triton", "reference"}


def test_norms_and_lstms_follow_their_own_measurements():
    rows = [row for file in MORE for row in file["problems"] if "operation" in row]
    assert {row["operation"] for row in rows} == {"norm_act", "conv_lstm"}
    for row in rows:  # Triton was faster than what auto has instead in all of them
        wanted = Problem(row["operation"], "bfloat16", *(row[name] for name in gpu_rules.SIZES))
        assert row["triton_ms"] < row["reference_ms"] and rules.choose(H100, wanted).impl == "triton"


def test_other_norms_and_lstms_make_other_rules():
    sizes = {"taps": 1, "stride": 1, "inputs": 64, "outputs": 64, "positions": 4096}
    entry = {"operation": "norm_act", **sizes, "stock_ms": {"channels_last": 3.0}, "triton_ms": 1.5}
    measured = {"device": CONVS["device"], "problems": [entry, {"layer": "up", "triton_ms": 1.0}]}
    assert gpu_rules.problems_of(CONVS, [measured])["norm_act"] == [(1, 1, 64, 64, 4096, 2.0)]
    measured["problems"][0] = {**entry, "reference_ms": 1.2}
    assert gpu_rules.problems_of(CONVS, [measured])["norm_act"] == [(1, 1, 64, 64, 4096, 0.8)]
    with pytest.raises(ValueError, match="one device"):
        gpu_rules.generate_rules(CONVS, TILES, [{**measured, "device": "another"}])
    with pytest.raises(ValueError, match="must be from one device"):
        gpu_rules.generate_rules(CONVS, TILES, [{**measured, "tiny": True}])


def conv(operation, inputs, outputs, positions, taps=64, stride=8, dtype="bfloat16"):
    return Problem(operation, dtype, taps, stride, inputs, outputs, positions)


@pytest.mark.parametrize(
    ("wanted", "impl"),
    [
        (conv("conv_down", 96, 192, 50_000), "triton"),  # between measured sizes, which all won
        (conv("conv_down", 128, 256, 32768, taps=48, stride=4), "triton"),  # (3, 4, 4) by (1, 2, 2)
        (conv("conv_down", 128, 256, 30_000, dtype="float16"), "triton"),
        (conv("conv_up", 64, 4, 500_000), "triton"),
        (conv("conv_up", 96, 96, 100_000), "reference"),
        (conv("conv_weight_grad", 64, 128, 90_000), "triton"),  # nearest to 1.09x
        (conv("conv_weight_grad", 64, 128, 40_000), "reference"),  # nearest to 1.05x, within the margin
        (conv("conv_down", 64, 64, 30_000, taps=27, stride=1), "reference"),
    ],
)
def test_sizes_that_were_not_measured_follow_the_nearest(wanted, impl):
    choice = rules.choose(H100, wanted)
    assert choice.impl == impl and "the nearest" in choice.why


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (conv("conv_down", 1, 256, 400_000), "nothing near"),
        (conv("conv_down", 1024, 2048, 4096), "nothing near"),
        (conv("conv_down", 128, 256, 4096, taps=64, stride=1), "nothing near"),
        (conv("conv_down", 128, 256, 4096, taps=512), "nothing near"),
        (conv("conv_down", 128, 256, 4096, dtype="float32"), "float32 has not been measured"),
        (conv("conv_down", 128, 256, 4096, dtype="float64"), "float64 has not been measured"),
        (Problem("norm_act", "float32", 1, 1, 64, 64, 4096), "float32 has not been measured"),
    ],
)
def test_what_is_far_from_all_measured_is_left_to_stock(wanted, why):
    choice = rules.choose(H100, wanted)
    assert choice.impl == "reference" and why in choice.why


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (conv("conv_down", 128, 256, 1), "whole steps of convolutions this small"),
        (conv("conv_down", 64, 256, 9216, taps=9, stride=1), "this small"),  # 2.7e9, the largest of `digits`
        (conv("conv_up", 0, 256, 4096), "this small"),
        (conv("conv_weight_grad", 128, 256, 0), "this small"),
        (Problem("norm_act", "bfloat16", 1, 1, 3, 3, 10), "the reference or more in all measured"),
        (Problem("conv_lstm", "float16", 25, 1, 8, 8, 10**7), "the reference or more in all measured"),
    ],
)
def test_beyond_what_was_measured_small_convolutions_and_all_norms_are_tritons(wanted, why):
    choice = rules.choose(H100, wanted)
    assert choice.impl == "triton" and why in choice.why


def test_an_operation_that_lost_once_is_not_taken_beyond_what_was_measured():
    other = SimpleNamespace(
        ORIGIN={"device": "other", "capability": [8, 0]},
        PROBLEMS={"norm_act": ((1, 1, 64, 64, 4096, 2.0), (1, 1, 8, 8, 4096, 1.0))},
        TILES={},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "_MEASURED", (other,))
        rules.choose.cache_clear()
        choices = [rules.choose(A100, Problem("norm_act", "bfloat16", 1, 1, c, c, 4096)) for c in (1024, 100)]
    rules.choose.cache_clear()
    assert [choice.impl for choice in choices] == ["reference", "triton"]


def test_other_gpus_take_the_rules_of_the_nearest():
    wanted = conv("conv_down", 128, 256, 4096)
    for capability in (A100, (8, 9), H100, B200, (12, 0)):
        assert rules.choose(capability, wanted).impl == "triton"
        assert rules.origin(capability)["device"] == CONVS["device"]
    other = SimpleNamespace(
        ORIGIN={"device": "other", "capability": [8, 0]}, PROBLEMS={"conv_down": ((*wanted[2:], 0.5),)}, TILES={}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "_MEASURED", (*rules._MEASURED, other))
        rules.choose.cache_clear()
        taken = [rules.choose(capability, wanted).impl for capability in (A100, (8, 9), H100, B200)]
    rules.choose.cache_clear()
    assert taken == ["reference", "triton", "triton", "triton"]  # 8.9 is one away from 9.0


@pytest.mark.parametrize("entry", PASSES, ids=name_entry)
def test_tensors_of_a_measured_pass_are_recognised(entry, monkeypatch):
    """The sizes come from shapes as the operations see them; memory is not touched."""
    seen = []
    monkeypatch.setattr(on_gpu, "_slower", lambda x, found, arguments: seen.append(found))
    small = entry["size"] if entry["transposed"] else entry["size"] // entry["stride"]
    size = {True: [small] * 3, False: [small * entry["stride"]] * 3}
    there, back = entry["transposed"], not entry["transposed"]

    def tensor(*shape):
        return torch.empty(shape, dtype=torch.bfloat16, device="meta", **LAST)

    x, dy = (tensor(entry["batch"], entry[c], *size[s]) for c, s in (("inputs", there), ("outputs", back)))
    channels = (entry["inputs"], entry["outputs"]) if there else (entry["outputs"], entry["inputs"])
    weight = tensor(*channels, *[entry["kernel"]] * 3)
    stride, padding, one, none = [entry["stride"]] * 3, [entry["padding"]] * 3, [1] * 3, [0] * 3
    if entry["pass"] == "weight gradient":
        large, small = (dy, x) if there else (x, dy)
        on_gpu.conv_weight_grad_slower(large, small, [entry["kernel"]] * 3, stride, padding, one, 1)
    elif there == (entry["pass"] == "forward"):
        on_gpu.conv_up_slower(x if there else dy, weight, stride, padding, none, one, 1)
    else:
        on_gpu.conv_down_slower(dy if there else x, weight, stride, padding, one, 1)
    assert seen == [problem(entry)]


def test_only_what_was_measured_is_looked_up():
    x, weight = torch.empty(8, 128, 8, 8, 8, dtype=torch.bfloat16), torch.empty(256, 128, 4, 4, 4, dtype=torch.bfloat16)
    sizes = [2] * 3, [1] * 3
    last = x.contiguous(**LAST), weight.contiguous(**LAST)
    with launches_are_captured():
        assert on_gpu.conv_down_slower(*last, *sizes, [1] * 3, 1) is None
    for arguments in ((x, weight, *sizes, [1] * 3, 1), (*last, *sizes, [2] * 3, 1), (*last, *sizes, [1] * 3, 2)):
        assert "channels_last_3d" in on_gpu.conv_down_slower(*arguments)
    assert "bfloat16" not in on_gpu.conv_down_slower(*(t.float() for t in last), *sizes, [1] * 3, 1)


def test_a_small_convolution_is_not_worth_a_launch_by_the_host():
    def slower(batch):
        x, weight = torch.empty(batch, 128, 8, 8, 8), torch.empty(256, 128, 4, 4, 4)
        x, weight = (t.bfloat16().contiguous(**LAST) for t in (x, weight))
        return on_gpu.conv_down_slower(x, weight, [2] * 3, [1] * 3, [1] * 3, 1)

    # 2 * 64 taps * 128 * 256 channels * 64 positions a clip are 2.7e8 operations; 2e10 keep the GPU busy for a launch.
    assert "CUDA graph" in slower(70) and slower(80) is None
    with launches_are_captured():
        with launches_are_captured():
            assert slower(70) is None
        assert slower(70) is None
    assert "CUDA graph" in slower(70)


def test_a_small_norm_is_not_worth_a_launch_by_the_host():
    def slower(elements):
        x = torch.empty(elements // 1024, 64, 1, 4, 4, dtype=torch.bfloat16, device="meta").contiguous(**LAST)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(on_gpu, "capability", lambda device: H100)
            return on_gpu.norm_act_slower(x)

    assert "CUDA graph" in slower(2**23) and slower(2**24) is None
    with launches_are_captured():
        assert slower(2**23) is None


def test_a_trial_decides_where_nothing_was_measured_and_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv(tuning.CACHE, str(tmp_path))
    monkeypatch.setenv(tuning.TUNE, "1")
    monkeypatch.setattr(tuning, "_milliseconds", lambda way: way())
    x, weight = torch.empty(2, 16, 4, 4, 4, **LAST), torch.empty(8, 16, 4, 4, 4, **LAST)
    arguments = x, weight, [2] * 3, [1] * 3, [1] * 3, 1
    for times, faster in (({"triton": 1.0, "reference": 2.0}, True), ({"triton": 2.0, "reference": 1.0}, False)):
        ways = {name: lambda ms=ms: ms for name, ms in times.items()}
        monkeypatch.setattr(on_gpu, "_both_ways", lambda name, arguments, ways=ways: ways)
        (tmp_path / tuning.FILE).unlink(missing_ok=True)
        tuning.forget()
        assert (on_gpu.conv_down_slower(*arguments) is None) == faster
        tuning.forget()
        monkeypatch.setattr(on_gpu, "_both_ways", lambda name, arguments: {"triton": None, "reference": None})
        assert (on_gpu.conv_down_slower(*arguments) is None) == faster  # from the file: None cannot be called
    monkeypatch.setenv(tuning.TUNE, "0")
    (tmp_path / tuning.FILE).unlink()
    tuning.forget()
    assert "float32 has not been measured" in on_gpu.conv_down_slower(*arguments)
    tuning.forget()


def test_tiles_are_those_of_the_class_or_of_the_nearest():
    flags = "down(2, 2, 2)ieee"
    for key, config in TILES.items():
        _, _, kernel, _, sizes, found = key.split("|", 5)
        assert rules.tile(H100, kernel, 2, tuple(map(int, sizes.split("x"))), found) == config
    assert rules.tile(H100, "gather", 2, (65536, 256, 4096, 1), flags) == [128, 256, 128, 8, 3, 255, True]
    assert rules.tile(H100, "gather", 2, (64, 256, 8192, 1), flags) is None
    assert rules.tile(H100, "gather", 4, (65536, 256, 8192, 1), flags) is None
    assert rules.tile(H100, "gather_fused", 2, (65536, 256, 8192, 1), flags) is None
    assert rules.tile(A100, "gather", 2, (65536, 256, 8192, 1), flags) is None


GEOMETRIES = [
    # inputs, outputs, kernel, stride, padding, output_padding, dilation, groups
    (6, 4, (4, 4, 4), [2, 2, 2], [1, 1, 1], [0, 0, 0], [1, 1, 1], 1),
    (6, 4, (3, 4, 2), [1, 2, 3], [1, 1, 0], [0, 1, 2], [1, 1, 2], 2),
    (3, 1, (1, 1, 1), [2, 1, 1], [0, 0, 0], [1, 0, 0], [1, 1, 1], 1),
]


def joins(*tensors):
    return not torch.is_grad_enabled()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_both_gradients_at_once_are_those_one_by_one(geometry, transposed, mixed, memory_format, monkeypatch):
    """On a GPU, as the patch pretends, stock PyTorch is called once; against stock autograd in float64."""
    inputs, outputs, kernel, stride, padding, extra, dilation, groups = geometry
    torch.manual_seed(0)
    x = torch.randn(2, inputs, 5, 6, 4).contiguous(memory_format=memory_format).requires_grad_()
    channels = (inputs, outputs // groups) if transposed else (outputs, inputs // groups)
    weight = torch.randn(*channels, *kernel).contiguous(memory_format=memory_format).requires_grad_()
    calls = []

    def record_gradients(*arguments):
        calls.append(both_gradients(*arguments))
        return calls[-1]

    both_gradients = joint.both_gradients
    for module in ("conv", "fused_conv"):
        monkeypatch.setattr(sys.modules[f"fastvgan_kernels.{module}"], "is_joinable", joins)
        monkeypatch.setattr(sys.modules[f"fastvgan_kernels.{module}"], "both_gradients", record_gradients)
    sizes = (stride, padding, extra, dilation, groups) if transposed else (stride, padding, dilation, groups)
    if mixed:  # as under autocast: a weight of float32 beside a half-precision x, which fused_conv takes
        lists = Geometry(transposed, stride, padding, extra if transposed else [0] * 3, dilation, groups)
        with torch.autocast("cpu", torch.bfloat16):
            y, _, _ = fused_conv(x, weight, None, lists, impl="reference")
    else:
        y = (conv_up if transposed else conv_down)(x, weight, None, *sizes, impl="reference")
    dy = torch.randn(y.shape).to(y.dtype).contiguous(memory_format=memory_format)
    found = torch.autograd.grad(y, (x, weight), dy, retain_graph=True)
    assert len(calls) == 1 and calls[0] is not None
    for module in ("conv", "fused_conv"):
        monkeypatch.setattr(sys.modules[f"fastvgan_kernels.{module}"], "is_joinable", lambda *tensors: False)
    one_by_one = torch.autograd.grad(y, (x, weight), dy)
    assert [t.stride() for t in found] == [t.stride() for t in one_by_one]
    exact = [t.detach().double().requires_grad_() for t in (x, weight)]
    order = (stride, padding, extra, groups, dilation) if transposed else (stride, padding, dilation, groups)
    function = torch.nn.functional.conv_transpose3d if transposed else torch.nn.functional.conv3d
    rights = torch.autograd.grad(function(*exact, None, *order), exact, dy.double())
    for mine, right, like in zip(found, rights, (x, weight), strict=True):
        assert mine.dtype == like.dtype and mine.shape == like.shape
        loose = 3e-2 if mixed else 1e-5
        torch.testing.assert_close(mine.double(), right, rtol=loose, atol=loose * right.abs().max().item())


def test_second_derivatives_go_by_our_operations(monkeypatch):
    monkeypatch.setattr(sys.modules["fastvgan_kernels.conv"], "is_joinable", joins)
    x, weight = (torch.randn(*s, dtype=torch.double, requires_grad=True) for s in ((1, 2, 4, 4, 4), (2, 2, 2, 2, 2)))
    assert torch.autograd.gradgradcheck(lambda x, w: conv_down(x, w, None, 2, 1), (x, weight))


def test_new_measurements_replace_only_the_same_passes(tmp_path):
    """By the script, as it is called after `bench/gpu.sh few`: the pass and its tile are in the rules, and no other."""
    before = [
        dict(entry, triton_ms=1.2) if name_entry(entry) == "last-64-3-from-32-weight-gradient" else entry
        for entry in PASSES
    ]
    (old,) = (entry for entry, now in zip(before, PASSES, strict=True) if entry is not now)
    general = {key: tile for key, tile in TILES.items() if "_few|" not in key}
    times = {"stock_ms": {"channels_last": 0.6, "contiguous": 0.9}, "triton_ms": 0.15, "off": 1e-4}
    shares = {"share_of_gemm": {"triton": 0.2, "stock": 0.05}, "share_of_copy": 0.4}
    key = f"{CONVS['device']}|triton 3.6.0|grad_few|bfloat16|64x256x1048576x1|(4, 4, 4)(2, 2, 2)ieee"
    new = {**old, **times, **shares, "key": key, "tile": [64, 256, 64, 8, 3, 255, False]}
    few = {"device": CONVS["device"], "commit": "abc", "date": "today", "versions": {}, "passes": [new]}
    convs, tiles, out = (tmp_path / name for name in ("convs.json", "tiles.json", "h100.py"))
    convs.write_text(json.dumps({**CONVS, "passes": before}))
    tiles.write_text(json.dumps(general))
    (tmp_path / "few.json").write_text(json.dumps(few))
    command = [gpu_rules.__file__, "--convs", convs, "--tiles", tiles, "--out", out, "--renew", tmp_path / "few.json"]
    subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True)
    found = {}
    exec(out.read_text(encoding="utf-8"), found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "_MEASURED", (SimpleNamespace(**found),))
        rules.choose.cache_clear()
        assert rules.has_tiles("grad_few") and not rules.has_tiles("up_few")
        sizes = 64, 256, 1048576, 1
        assert rules.tile(H100, "grad_few", 2, sizes, "(4, 4, 4)(2, 2, 2)ieee") == new["tile"]
    rules.choose.cache_clear()
    passes = json.loads(convs.read_text())["passes"]
    assert [row for row, entry in zip(passes, before, strict=True) if row != entry] == [
        {**old, **times, **shares, "measured": {"commit": "abc", "date": "today", "versions": {}}}
    ]
    with pytest.raises(ValueError, match="one device"):
        gpu_rules.update_measurements(CONVS, general, {**few, "tiny": True})
