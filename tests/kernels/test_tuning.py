"""Which configuration a Triton kernel gets: by rule, from the file, by trial; and what can go wrong with the file."""

import json
import logging

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from fastvgan_kernels.triton import tuning
from fastvgan_kernels.triton.tuning import Config, Problem
from fastvgan_kernels.warn_once import WarnOnce

pytestmark = pytest.mark.triton
LARGE, MIDDLE, SMALL = SHIPPED = Config(128, 128, 128), Config(64, 64, 128), Config(16, 16, 128)
CPU = torch.device("cpu")


def problem(rows=4096, columns=512, depth=1024, **options):
    return Problem("gather", CPU, torch.float16, rows, columns, depth, **options)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The file that choices are kept in, not there yet; tuning is off, and nothing is held in memory."""
    monkeypatch.setenv(tuning.CACHE, str(tmp_path / "cache"))
    monkeypatch.delenv(tuning.TUNE, raising=False)
    monkeypatch.setattr(tuning, "_chosen", {})
    monkeypatch.setattr(tuning, "warn_once", WarnOnce(logging.getLogger("fastvgan_kernels")))
    tuning.forget()
    yield tmp_path / "cache" / tuning.FILE
    tuning.forget()


@pytest.fixture
def trials(cache, monkeypatch):
    """Tuning is on, and MIDDLE is the fastest; what was tried."""
    tried = []

    def milliseconds(run):
        run()
        return {LARGE: 3.0, MIDDLE: 1.0, SMALL: 2.0}[tried[-1]]

    monkeypatch.setenv(tuning.TUNE, "1")
    monkeypatch.setattr(tuning, "_milliseconds", milliseconds)
    return tried


def never(config):
    raise AssertionError("nothing is tried without FASTVGAN_TUNE=1")


def test_the_rule_takes_the_largest_tiles_that_fill_the_device(cache, monkeypatch):
    monkeypatch.setattr(tuning, "processors", lambda device: 100)
    assert tuning.choose(problem(), SHIPPED, never) == LARGE  # 32 · 4 tiles
    assert tuning.choose(problem(rows=1024), SHIPPED, never) == MIDDLE
    assert tuning.choose(problem(rows=128, columns=64), SHIPPED, never) == SMALL
    assert not cache.exists()


def test_tiles_that_would_be_mostly_empty_or_do_not_fit_are_left_out(cache, monkeypatch):
    assert tuning.candidates(problem(columns=40), SHIPPED) == [MIDDLE, SMALL]
    assert tuning.candidates(problem(rows=3, columns=3), SHIPPED) == [SMALL]
    assert tuning.candidates(problem(rows=3, columns=3), SHIPPED[:2]) == [MIDDLE]
    monkeypatch.setattr(tuning, "_available_shared_bytes", lambda device: 60 * 1024)
    assert tuning.candidates(problem(), SHIPPED) == [MIDDLE, SMALL]


def test_descriptors_are_for_problems_that_allow_them(cache):
    engine = Config(128, 128, 128, tma=True)
    assert tuning.choose(problem(), (engine, *SHIPPED), never) == LARGE
    assert tuning.choose(problem(tma=True), (engine, *SHIPPED), never) == engine


def test_trials_are_made_once_for_a_class_of_shape_and_kept(trials, cache):
    assert tuning.choose(problem(), SHIPPED, trials.append) == MIDDLE
    assert trials == list(SHIPPED)
    assert tuning.choose(problem(rows=4000), SHIPPED, trials.append) == MIDDLE  # of the same class, from the file
    assert len(trials) == 3
    assert list(json.loads(cache.read_text())) == [problem().key()]
    tuning.forget()
    assert tuning.choose(problem(), SHIPPED, trials.append) == MIDDLE and len(trials) == 3
    tuning.choose(problem(flags="other"), SHIPPED, trials.append)
    assert len(trials) == 6 and len(json.loads(cache.read_text())) == 2
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]


def test_what_was_tuned_serves_without_tuning(trials, monkeypatch):
    tuning.choose(problem(), SHIPPED, trials.append)
    tuning.forget()
    monkeypatch.delenv(tuning.TUNE)
    monkeypatch.setattr(tuning, "processors", lambda device: 1)
    assert tuning.choose(problem(), SHIPPED, never) == MIDDLE
    tuning.forget()
    assert tuning.choose(problem(), (LARGE, SMALL), never) == LARGE  # what is shipped no more is not taken


def test_nothing_is_tried_while_a_graph_is_captured(trials, cache, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "_capturing", lambda device: True)
        assert tuning.choose(problem(), SHIPPED, never) == LARGE
    assert tuning.choose(problem(), SHIPPED, trials.append) == MIDDLE  # later, outside, it is


@pytest.mark.parametrize("content", ["{", "[1]", '{"a": 1}', '{"a": [1, 2, 3, 4, 5, 6]}'])
def test_a_damaged_file_is_reported_once_and_rewritten(trials, cache, content, caplog):
    cache.parent.mkdir()
    cache.write_text(content)
    with caplog.at_level(logging.WARNING, "fastvgan_kernels"):
        assert tuning.choose(problem(), SHIPPED, trials.append) == MIDDLE
        assert tuning.choose(problem(flags="other"), SHIPPED, trials.append) == MIDDLE
    assert len(caplog.records) == (content in ("{", "[1]"))
    assert problem().key() in json.loads(cache.read_text())


def test_a_folder_that_cannot_be_written_stops_nothing(trials, cache, caplog):
    cache.parent.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, "fastvgan_kernels"):
        assert tuning.choose(problem(), SHIPPED, trials.append) == MIDDLE
        assert tuning.choose(problem(), SHIPPED, trials.append) == MIDDLE
    assert len(trials) == 3 and "tuning results are lost when this process ends" in caplog.text


def test_a_file_that_cannot_be_replaced_leaves_nothing_beside_it(trials, cache, caplog):
    cache.mkdir(parents=True)
    with caplog.at_level(logging.WARNING, "fastvgan_kernels"):
        assert tuning.choose(problem(), SHIPPED, trials.append) == MIDDLE
    assert "tuning results are lost when this process ends" in caplog.text and list(cache.parent.iterdir()) == [cache]


def test_running_statistics_are_untouched_by_trials(cache, monkeypatch, interpreted):
    """Trials run only kernels, on separate outputs, so results equal those of one run."""
    from fastvgan_kernels import conv_lstm, norm_act

    def both():
        torch.manual_seed(0)
        mean, var, x = torch.zeros(18), torch.ones(18), torch.randn(3, 18, 4, 5)
        y = norm_act(x, None, None, mean, var, activation="relu", impl="triton")
        steps = torch.randn(2, 3, 2, 3, 2, requires_grad=True)
        output, h, c = conv_lstm(steps, None, None, torch.randn(8, 3, 3, 3), torch.randn(8, 2, 3, 3), impl="triton")
        return y, mean, var, output, h, c, *torch.autograd.grad(output.sum() + c.sum(), steps)

    once = both()
    tuning.forget()
    trials = []

    def milliseconds(run):
        trials.append([run() for _ in range(2)])
        return len(trials)

    monkeypatch.setenv(tuning.TUNE, "1")
    monkeypatch.setattr(tuning, "_milliseconds", milliseconds)
    monkeypatch.setattr(tuning, "_fills", lambda size, tile: tile <= 1024)  # problems this small leave nothing to try
    for mine, right in zip(both(), once, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-5, atol=1e-5)
    assert len(trials) > 10
