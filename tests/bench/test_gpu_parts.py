"""bench/gpu.sh and its parts, tried at tiny sizes on the CPU, so that what is wrong with them is not found on a GPU."""

import json
import os
import re
import sys

import bench_command
import pytest


def run(*arguments, **options):
    return bench_command.run(*arguments, **{"FASTVGAN_BENCH_TINY": "1", **options})


def part(name, out, *options, **environment):
    run(f"bench/gpu/{name}.py", "--out", out, *options, **environment)
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "only", "key", "columns"),
    [
        ("convs", "ref-", "passes", {"stock_ms", "triton_ms", "auto_ms", "auto_impl", "auto_ratio", "off"}),
        ("convs", "clips-64-up-512", "passes", {"kernel", "stride", "padding", "triton_ratio"}),
        ("layers", "norm 256x4096", "problems", {"operation", "positions", "triton_ms", "gb_per_s"}),
        ("layers", "down-128-256-from-8", "problems", {"layer", "auto_ratio", "off"}),
        ("lstm", "128 channels at 8", "problems", {"operation", "positions", "triton_ms", "stock_ms"}),
        ("train", "reference auto", "steps", {"mode", "step_ms", "videos_per_s"}),
        ("train", "clips-64 auto", "steps", {"mode", "step_ms", "videos_per_s"}),
        ("train", "clips-64 stock bf16 eager", "steps", {"mode", "step_ms", "videos_per_s"}),
        ("breakdown", "reference auto", "steps", {"step_ms", "host_ms", "kernels_ms", "launches", "kernels"}),
        ("scale", "conv3d base", "steps", {"family", "dimension", "sizes", "dtype", "step_ms", "videos_per_s"}),
        ("scale", "recurrent processes", "steps", {"step_ms", "videos_per_s", "peak_bytes"}),
        ("command", "digits-conv3d", "commands", {"videos_per_s", "data_wait", "start_s"}),
        ("command", "shards", "commands", {"videos_per_s", "data_wait", "start_s"}),
    ],
)
def test_a_part_writes_what_it_measures(tmp_path, name, only, key, columns):
    found = part(name, tmp_path / f"{name}.json", "--only", only)
    assert {"device", "capability", "versions", "commit", "date", "dtype"} <= set(found)
    assert found["tiny"] and not found["failed"] and not found["left_out"]
    assert found[key] and all(columns <= set(row) for row in found[key])


def test_the_kernels_for_few_channels_are_tried_with_every_tile(tmp_path):
    """By Triton's interpreter, which checks the results, too."""
    only = "--only", "last-128-3-8 forward"
    found = part("few", tmp_path / "few.json", *only, TRITON_INTERPRET="1")
    assert found["tiny"] and not found["failed"] and not found["left_out"]
    (row,) = found["passes"]
    assert len(row["tiles"]) >= 3 and [row["triton_ms"], row["tile"], row["off"]] in row["tiles"]
    assert {"stock_ms", "general_ms", "share_of_gemm", "share_of_copy"} <= set(row) and "|up_few|" in row["key"]


def test_passes_are_what_the_rules_are_made_from(tmp_path):
    """Of this part's file, but for being shrunk, the script makes a module."""
    found = part("convs", tmp_path / "convs.json", "--only", "ref-")
    (tmp_path / "convs.json").write_text(json.dumps({**found, "tiny": False}), encoding="utf-8")
    files = "--convs", tmp_path / "convs.json", "--more", "--out", tmp_path / "rules.py"
    run("bench/gpu_rules.py", *files)
    made = {}
    exec((tmp_path / "rules.py").read_text(encoding="utf-8"), made)
    assert made["ORIGIN"]["passes"] == len(found["passes"]) == 15
    assert {row[:2] for rows in made["PROBLEMS"].values() for row in rows} == {(64, 8), (64, 1)}


def test_what_no_longer_fits_or_fails_is_named(tmp_path):
    run("bench/gpu/convs.py", "--out", tmp_path / "none.json", "--seconds", "0", status=1)
    none = json.loads((tmp_path / "none.json").read_text(encoding="utf-8"))
    assert not none["passes"] and len(none["left_out"]) == 84
    text = run("bench/gpu/convs.py", status=2, FASTVGAN_BENCH_TINY="")
    assert "no CUDA device" in text
    wrong = {"FASTVGAN_DISABLE_EXTENSION": "1", "PATH": os.environ["PATH"]}
    program = "import sys; sys.path.insert(0, 'bench/gpu'); import part; sys.argv = ['x', '--out', sys.argv[1]]\n"
    program += "units = lambda: [part.Unit('bad', lambda: 1 / 0), part.Unit('good', lambda: {'a_ms': 1.0})]\n"
    program += "sys.exit(part.main('x', 'rows', units))"
    run("-c", program, tmp_path / "some.json", status=1, **wrong)
    some = json.loads((tmp_path / "some.json").read_text(encoding="utf-8"))
    assert some["rows"] == [{"a_ms": 1.0}] and "ZeroDivisionError" in some["failed"]["bad"]


def test_every_unit_is_compiled_by_one_process(tmp_path):
    """What `warm` starts, without Triton: it runs, and times nothing."""
    for index in range(2):
        text = run("bench/gpu/train.py", "--only", "reference", "--compile", f"{index}/2")
        assert "_ms" not in text


INTERPRETER = """#!/bin/bash
echo "called: $*"
case "$*" in *train.py*) sleep 60 ;; *convs.py*) exit 3 ;; esac
"""


@pytest.mark.slow
def test_the_script_shares_its_budget_and_names_what_it_skips(tmp_path):
    """With a stand-in for Python, of which one part takes longer than its share, and another one fails."""
    python, out = tmp_path / "python", tmp_path / "out"
    python.write_text(INTERPRETER)
    python.chmod(0o755)
    setting = {"OUT": str(out), "PYTHON": str(python), "BUDGET": "40"}
    text = run("bench/gpu.sh", "train", "lstm", "convs", "nonsense", status=1, **setting, program="bash")
    assert re.search(r"train: ran out of its 1[5-8] s", text)  # 20 of 43 shares of 40 s, less what comes first
    assert "lstm: skipped" in text and "convs: FAILED with exit status 3" in text
    assert "unknown part nonsense" in text
    text = run("bench/gpu.sh", "lstm", "tests", **setting, program="bash")
    assert "lstm: passed" in text and "tests: passed" in text
    assert re.search(rf"called: bench/gpu/lstm.py --out {out}/lstm.json --seconds \d\n", text)
    assert "-m pytest -v -m gpu" in (out / "log.txt").read_text(encoding="utf-8")
    text = run("bench/gpu.sh", "scale", **setting, program="bash")
    assert re.search(r"called: bench/gpu/warm.py --parts scale --seconds 1?\d\n", text)
    assert re.search(rf"called: bench/gpu/scale.py --out {out}/scale.json --seconds \d\d\n", text)
    assert "scale-warm: passed" in text and "scale: passed" in text


def test_the_script_runs_a_part(tmp_path):
    text = run("bench/gpu.sh", "lstm", OUT=str(tmp_path), PYTHON=sys.executable, BUDGET="350", program="bash")
    assert "lstm: passed" in text
    assert {path.name for path in tmp_path.iterdir()} == {"lstm.json", "log.txt"}
    assert "ConvLSTMs by auto on an H100" in (tmp_path / "log.txt").read_text(encoding="utf-8")
