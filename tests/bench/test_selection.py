"""Which benchmarks run by default, how long that is said to take, and what a run prints."""

import json
import re
from types import SimpleNamespace

import pytest
import renew_seconds
from bench_command import ROOT, run
from support import case_seconds, selection

BENCH = ROOT / "bench"


def test_no_variant_of_a_problem_is_left_out():
    """The best stock variant may be another one on each machine; recorded are the names of all cases."""
    chosen = {}
    for node in case_seconds.read_record().seconds:
        file, _, name = node.removeprefix("bench/").partition("::")
        problem = re.sub(r"(stock-)?(eager|compile|ours)-(contiguous|channels_last)(-pure)?|(stock|ours)-", "", name)
        chosen.setdefault((file, problem), set()).add(selection.is_default(file, name))
    assert all(len(answers) == 1 for answers in chosen.values()), chosen


@pytest.mark.slow
def test_by_default_each_layer_and_job_runs_once_within_ten_minutes():
    text = run("-m", "pytest", "bench", "--benchmark-only", "--collect-only", "-q")
    nodes = [line for line in text.splitlines() if "::" in line]
    assert {node.partition("::")[0].removeprefix("bench/test_") for node in nodes if "test_gpu_" not in node} == {
        *("conv.py", "conv_lstm.py", "fuse.py", "fused_layers.py", "generator.py", "loader.py", "norm_act.py"),
        "train_step.py",
    }
    for kind in ("ConvTranspose3d", "Conv3d"):  # one shape per layer, named by the ids
        assert any(("up-" if kind == "ConvTranspose3d" else "down-") in node for node in nodes)
    record = case_seconds.read_record()
    here = [node for node in nodes if "test_gpu_" not in node]
    assert set(here) <= set(record.seconds), "renew bench/results/case-seconds.json"
    expected = sum(record.estimate(here).values())
    assert 120 < expected < 600
    assert f"{len(here)} benchmarks, about {case_seconds.in_words(expected)}\nestimated from {record.how} on " in text
    assert "--full runs all benchmarks" in text and " deselected" in text


def config(*arguments, full=False, keyword=""):
    given = SimpleNamespace(full=full, keyword=keyword)
    options = {"option": given, "getoption": lambda name, default: getattr(given, name, default)}
    return SimpleNamespace(args=list(arguments), **options, invocation_params=SimpleNamespace(dir=ROOT))


def item(file, name):
    return SimpleNamespace(path=BENCH / file, name=name, nodeid=f"bench/{file}::{name}")


def test_what_the_command_line_names_runs():
    usual, rare = item("test_train_step.py", "test_train[ours]"), item("test_ceilings.py", "test_copy[copy]")
    other = item("test_conv.py", "test_conv[up-256-128-forward-fp32-ours]")
    both = [usual, rare, other]
    assert selection.select(config("bench"), both) == ([usual], [rare, other])
    assert selection.select(config("."), both) == ([usual], [rare, other])
    assert selection.select(config("bench", full=True), both) == (both, [])
    assert selection.select(config("bench", keyword="copy"), both) == (both, [])
    assert selection.select(config("bench/test_ceilings.py"), [rare]) == ([rare], [])
    assert selection.select(config("bench/test_ceilings.py::test_copy[copy]", "bench"), both) == (
        [usual, rare],
        [other],
    )
    assert selection.is_directory_run(config("bench", "tests"))
    assert not selection.is_directory_run(config("bench/test_ceilings.py::test_copy"))
    assert not selection.is_directory_run(config("bench", keyword="copy"))


def test_cases_that_would_be_skipped_do_not_count():
    gpu, fuse = item("test_gpu_conv.py", "test"), item("test_fuse.py", "test")
    assert [selection.runs_here(case, on_gpu=False) for case in (gpu, fuse)] == [False, True]
    assert [selection.runs_here(case, on_gpu=True) for case in (gpu, fuse)] == [True, False]
    assert selection.runs_here(gpu, on_gpu=False, tiny=True)


def test_a_case_without_a_record_takes_the_median_of_its_function(tmp_path):
    record = case_seconds.Record(
        "a CPU, 2 cores", "measured", {"f::a[x]": 1.0, "f::a[y]": 2.0, "f::a[z]": 9.0, "f::b": 4.0}
    )
    assert record.estimate(["f::a[z]", "f::a[new]", "f::b", "f::c"]) == {
        **{"f::a[z]": 9.0, "f::a[new]": 2.0, "f::b": 4.0},
        "f::c": 3.0,
    }
    file = tmp_path / "record.json"
    file.write_text(case_seconds.as_json(record), encoding="utf-8")
    assert case_seconds.read_record(file) == record
    file.write_text('{"seconds": {}}', encoding="utf-8")
    with pytest.raises(ValueError, match="is not a table of seconds per case"):
        case_seconds.read_record(file)


def test_the_rest_is_estimated_at_the_speed_of_the_run():
    progress = case_seconds.Progress({"a": 30.0, "b": 60.0, "c": 30.0}, begin=0.0, _last=0.0)
    assert progress.estimate_rest() == 120 and progress.line(9.0) is None
    for seconds in (1.0, 43.0, 1.0):  # setup, call, teardown: half as fast again as recorded
        progress.add("a", seconds)
    assert progress.estimate_rest() == 135
    assert progress.line(45.0) == "  1 of 3 benchmarks after 45 s; about 2 min 20 s left"
    assert progress.line(50.0) is None  # too soon after the last line
    progress.add("b", 90.0)
    progress.add("c", 45.0)
    assert progress.line(180.0) == "  3 of 3 benchmarks after 3 min; done"


def test_little_of_a_run_says_little_about_its_speed():
    progress = case_seconds.Progress({"a": 1.0, "b": 60.0})
    progress.add("a", 5.0)  # the first case imports and compiles
    assert progress.estimate_rest() == 60


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 s"),
        (59, "59 s"),
        (60, "1 min"),
        (204, "3 min 20 s"),
        (599, "10 min"),
        (1900, "32 min"),
        (4000, "1 h 7 min"),
    ],
)
def test_times_in_words(seconds, words):
    assert case_seconds.in_words(seconds) == words


def run_of(cpu, day="2026-11-28", **seconds):
    facts = {"device": "cpu", "cpu": cpu, "cores": 2}
    return {"machine_info": {"fastvgan": facts}, "datetime": f"{day}T10", "seconds_per_case": seconds}


def test_records_are_renewed_by_runs_on_one_machine():
    old = case_seconds.Record("x, 2 cores", "guesses", {"a": 1.0, "b": 2.0})
    new = renew_seconds.renew(old, [run_of("x", a=5.0)])
    assert new.seconds == {"a": 5.0, "b": 2.0}
    assert new.how == "seconds measured 2026-11-28 (other cases: guesses)"
    again = renew_seconds.renew(new, [run_of("x", "2026-11-29", a=6.0)])
    assert again.how == "seconds measured 2026-11-29 (other cases: seconds measured 2026-11-28)"
    assert renew_seconds.renew(old, [run_of("y", a=5.0)]).seconds == {"a": 5.0}
    assert renew_seconds.renew(old, [run_of("x", a=5.0), run_of("x", b=6.0)]).how == "seconds measured 2026-11-28"
    with pytest.raises(renew_seconds.UserError, match="different machines"):
        renew_seconds.renew(old, [run_of("x", a=5.0), run_of("y", b=5.0)])
    with pytest.raises(renew_seconds.UserError, match="not results of these benchmarks"):
        renew_seconds.renew(old, [{"machine_info": {}}])


@pytest.mark.slow
def test_a_run_says_what_it_does_and_ends_with_the_ratios(tmp_path):
    file = tmp_path / "found.json"
    options = "--benchmark-only", f"--benchmark-json={file}", "-k", "not triton"
    text = run("-m", "pytest", "bench/test_dispatch.py", *options, FASTVGAN_BENCH_TINY="1")
    assert "2 benchmarks, about " in text and "--full" not in text
    table = text[text.index("our times against the best stock variant's") :]
    (row,) = [line for line in table.splitlines() if line.startswith("dispatch of an operation, 1000 calls")]
    found = json.loads(file.read_text(encoding="utf-8"))
    medians = {b["extra_info"]["variant"]: b["stats"]["median"] for b in found["benchmarks"]}
    ratio = medians["custom-op"] / medians["ours"]
    assert float(row.rstrip(" ~").split()[-1]) == pytest.approx(ratio, abs=0.006)
    seconds = found[case_seconds.KEY]
    assert len(seconds) == 2 and max(seconds.values()) > 0 <= min(seconds.values())  # rounded; a tiny case may have 0
    with pytest.raises(renew_seconds.UserError, match="small problems"):
        renew_seconds.renew(case_seconds.read_record(), [found])
