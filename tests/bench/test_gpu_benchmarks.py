"""The benchmarks for a GPU, tried at tiny sizes on the CPU, so that what is wrong with them is not found on a GPU."""

import json

import pytest
from bench_command import ROOT, run

from fastvgan_kernels import implementations

TINY = {"FASTVGAN_BENCH_TINY": "1"}
# Of each kind of problem the smallest one, by one stock variant and ours, and one as a CUDA graph, which is none here.
PROBLEMS = "up-128-64-from-32 or same-64-64-at-16 or 128-64-from-32-e or 128-64-from-32-o or last_layer"
PROBLEMS += " or (norm_act and -relu-) or (conv_lstm and 2-forward) or test_copy"
PICKED = f"({PROBLEMS}) and not autotune and not compile and not eager-contiguous"
PICKED += " and (not graph or (same-64-64-at-16 and forward))"
# Interpreted, a whole step takes minutes: here the step is that of auto, as a runner replays it too.
PICKED += " or (gpu_train and reference and (bf16-eager or ours_auto)) or (test_gemm and fp32-1024)"


@pytest.mark.slow
def test_all_kinds_run_and_are_reported(tmp_path):
    triton = implementations()["conv_up"]["implementations"]["triton"]
    if triton != "available":
        pytest.skip(triton)
    files = [*sorted(ROOT.glob("bench/test_gpu_*.py")), ROOT / "bench/test_ceilings.py"]
    found = tmp_path / "found.json"
    options = "-q", "--benchmark-only", f"--benchmark-json={found}", "-k", PICKED, "-p", "no:cacheprovider"
    run("-m", "pytest", *files, *options, TRITON_INTERPRET="1", **TINY)
    text = run("bench/report.py", "--from", found, found, "--out", tmp_path, **TINY)
    assert "SMALL PROBLEMS" in text and "in the geometric mean" in text and "videos/s" in text
    (report,) = tmp_path.glob("cpu-*.json")
    summary = json.loads(report.read_text(encoding="utf-8"))
    assert {"device", "torch", "cuda", "triton"} <= set(summary["machine"]) and summary["commit"]
    targets = {target["what"] for group in summary["groups"].values() for target in group["targets"]}
    assert targets >= {"x best stock", "of copy", "x loop over cuDNN", "x ours without CUDA graphs"}
    for name, group in summary["groups"].items():
        assert {"stock", "ours", "ratio", "floor_ms"} <= set(group), name


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"FASTVGAN_BENCH_TINY": ""}, "no CUDA device"),
        ({**TINY, "FASTVGAN_BENCH_SECONDS": "0"}, "FASTVGAN_BENCH_SECONDS have passed"),
    ],
)
def test_skips_say_why(environment, reason):
    assert reason in run(
        "-m", "pytest", "-rs", "bench/test_gpu_conv_lstm.py", "-k", "2-forward and ours", **environment
    )
