"""What the report makes of measurements."""

import pytest
from support import summary

NAMES = [f"GPU: Conv3d 64→64 from {size}³, kernel 3, stride 1, batch 4, forward, bf16" for size in (8, 16)]


def entry(group, variant, seconds, **facts):
    stats = {"median": seconds, "iqr": 0, "rounds": 5}
    return {"group": group, "stats": stats, "extra_info": {"variant": variant, "dtype": "bf16", **facts}}


def data(*benchmarks, device="NVIDIA H100 80GB HBM3", commit="c"):
    machine = {"device": device, "cpu": "x", "cores": 16, "torch": "2.11", "cuda": "13.0", "triton": "3.6"}
    commits = {"id": commit, "dirty": False}
    return {
        "machine_info": {"fastvgan": machine},
        "commit_info": commits,
        "datetime": "2026-01-01T00",
        "benchmarks": list(benchmarks),
    }


def both(name, stock, ours):
    facts = {"flops": 2e11, "needed_flops": 1.6e11, "bytes": 1e6}
    return entry(name, "eager-contiguous", stock), entry(name, "ours-channels_last", ours, **facts)


GEMM = entry("ceilings", "gemm 4096 bf16", 1e-3, ceiling="gemm", flops=4e11)  # 400 TFLOP/s


def test_means_floors_and_targets_of_each():
    found = summary.summarise(data(GEMM, *both(NAMES[0], 2e-3, 1e-3), *both(NAMES[1], 1e-3, 2e-3)))
    (mean,) = found["overall"]
    assert (mean["what"], mean["value"], mean["groups"]) == ("x best stock in the geometric mean", 1, 2)
    assert not mean["met"]
    first, second = (found["groups"][name] for name in NAMES)
    assert first["floor_ms"] == 0.4 and first["floor_by"] == "gemm"
    assert {t["what"]: t["value"] for t in first["targets"]}["of GEMM by the usual count"] == 0.5
    assert [t["met"] for t in first["targets"]] == [True, False]
    assert [t["met"] for t in second["targets"]] == [False, False]
    text = summary.as_text(found)
    assert "CUDA 13.0, Triton 3.6, commit c" in text and "over 2 groups" in text and "1 of 5 targets met" in text


def test_data_sheets_fill_in_what_was_not_measured():
    found = summary.summarise(data(*both(NAMES[0], 2e-3, 1e-3)))
    assert found["ceilings"] == {} and found["groups"][NAMES[0]]["floor_ms"] == pytest.approx(
        1.6e11 / 989e12 * 1e3, 1e-3
    )
    unknown = summary.summarise(data(*both(NAMES[0], 2e-3, 1e-3), device="another"))
    assert "floor_ms" not in unknown["groups"][NAMES[0]]


def test_files_of_one_run_are_one_report_and_others_are_refused():
    halves = [data(GEMM, *both(name, 2e-3, 1e-3)) for name in NAMES]
    assert list(summary.summarise(summary.merge_runs(halves))["groups"]) == NAMES
    with pytest.raises(ValueError, match="different runs"):
        summary.merge_runs([halves[0], data(GEMM, commit="d")])


def step(variant, seconds, name="reference", **facts):
    dtype = "fp32" if variant.startswith("fp32") else "bf16"
    facts = {"flops": 2e11, "needed_flops": 1.5e11, "videos": 64, "dtype": dtype, **facts}
    return entry(f"GPU: train step, preset {name}, batch 64", variant, seconds, **facts)


def test_whole_steps_of_every_variant_and_their_targets():
    steps = [
        step("fp32-eager-contiguous", 20e-3, cudnn_fp32_precision="tf32"),
        step("bf16-compile-channels_last", 4e-3, peak_bytes=3e9),
        step("bf16-compile-channels_last-graph", 2e-3),
        step("ours_auto-channels_last", 3e-3),
        step("ours_triton-channels_last", 5e-3),
        step("ours_triton-channels_last-graph", 1e-3, peak_bytes=2.5e9),
    ]
    found = summary.summarise(data(GEMM, *steps))
    (group,) = found["groups"].values()
    assert (group["ours"], group["stock"]) == ("ours_triton-channels_last-graph", "bf16-compile-channels_last-graph")
    best = group["variants"][group["ours"]]
    assert (best["videos_per_s"], best["tflops_per_s"], best["share_of_gemm"]) == (64000, 200, 0.375)
    plain = group["variants"]["fp32-eager-contiguous"]
    assert plain["cudnn_fp32_precision"] == "tf32" and "share_of_gemm" not in plain  # of float32 there is no ceiling
    wanted = {target["what"]: (target["value"], target["met"]) for target in group["targets"]}
    assert wanted == {
        "x ours without CUDA graphs": (3, True),
        "x plain fp32": (20, True),
        "x compiled autocast": (4, True),
    }
    lines = summary.as_text(found).splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("whole steps"))
    assert lines[head + 1].split()[-6:] == ["ours_triton-channels_last-graph", "1.00", "64000", "200", "38%", "2.50"]
    assert lines[head + 6].split()[:4] == ["fp32-eager-contiguous", "20.00", "3200", "10"]


def test_graphs_are_no_target_of_the_larger_preset_nor_where_there_are_none():
    def targets(*steps):
        (group,) = summary.summarise(data(*steps))["groups"].values()
        return {target["what"]: target["met"] for target in group["targets"]}

    stock = step("bf16-compile-channels_last", 4e-3, "clips-64"), step("fp32-eager-contiguous", 5e-3, "clips-64")
    ours = step("ours_auto-channels_last", 3e-3, "clips-64"), step("ours_auto-channels_last-graph", 2e-3, "clips-64")
    assert targets(*stock, *ours) == {"x plain fp32": False, "x compiled autocast": True}
    assert targets(step("ours_auto-channels_last", 3e-3)) == {}


def test_overhead_of_the_trainer_is_to_stay_below_its_bound():
    name = "trainer: a step's time without kernels, preset reference, batch 64"
    found = summary.summarise(data(entry(name, "ours", 0.1, overhead=0.021, overhead_unrecorded=0.01)))
    (target,) = found["groups"][name]["targets"]
    assert target["met"] and target["value"] == 0.021
    assert "0.021 of a step without an operation (≤ 0.03): met" in summary.as_text(found)
    worse = summary.summarise(data(entry(name, "ours", 0.1, overhead=0.031)))
    assert not worse["groups"][name]["targets"][0]["met"]
