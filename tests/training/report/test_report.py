"""The report of a run: whole, self-contained and valid, whatever the run folder holds."""

import base64
import json
import random
import re
from html.parser import HTMLParser

import pytest
import yaml
from commands import run as command_run
from commands import run_afresh
from PIL import Image

from fastvgan.errors import UserError
from fastvgan.training.report.collect import write_report
from fastvgan.training.report.curves import groups, readable, series

VOID = {"meta", "img", "br", "link", "hr", "input"}
EVIL = '"><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }} & $x^$ \x1b[31m \x00'
METRICS = (
    "d_loss g_loss d_real d_fake diversity d_grad_norm g_grad_norm skipped videos_per_second data_wait memory_bytes "
    "lr_generator something_new"
).split()


class Page(HTMLParser):
    """Reads a page; every tag must be closed in order, and nothing may come from elsewhere."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.images, self.words, self.alts = [], [], [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == [] and self.source.startswith("<!DOCTYPE html>")
        assert not {"script", "iframe", "link", "object"} & set(self.tags)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        values = dict(attributes)
        assert not any(name.startswith("on") or name == "href" for name in values)
        if tag == "img":
            kind, content = re.fullmatch(r"data:(image/[a-z+]+);base64,(.*)", values["src"]).groups()
            self.images.append((kind, base64.b64decode(content, validate=True)))
            self.alts.append(values["alt"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


def page(folder):
    path = write_report(folder)
    assert path == folder / "report.html" and [p.name for p in folder.glob(".report*")] == []
    return Page(path)


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def picture(path, colour=(9, 99, 199)):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (40, 30), colour).save(path)


def make(folder, names):
    """A run folder with everything in it, and metrics of these names."""
    folder.mkdir()
    model = {"family": "conv3d", "frames": 16, "height": 16, "width": 16, "channels": 3, "condition": ["text"]}
    config = {"model": model, "data": {"data": "digits"}, "training": {"steps": 60, "batch_size": 64}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    chosen = {"conv_up": {"implementations": {"cpp": "available"}, "chosen": {"cpu": {"impl": "cpp", "why": "fast"}}}}
    environment = {"command": ["train.py", "--run-dir", "my run"], "gpu": None, "implementations": chosen}
    (folder / "env.json").write_text(json.dumps(environment))
    (folder / "metrics.jsonl").write_text(
        lines({"step": step, **{name: step / (1 + i) for i, name in enumerate(names)}} for step in (10, 20, 30))
    )
    (folder / "evaluation.jsonl").write_text(
        lines({"step": step, "coarse_frechet": score} for step, score in ((10, 3.5), (20, 1.25), (30, 2.75)))
    )
    (folder / "log.txt").write_text(
        "2026-01-01 10:00:00,000 INFO all is well\n"
        "2026-01-01 10:00:01,000 WARNING a clip is short\n"
        "2026-01-01 10:00:02,000 ERROR the disk is full\n"
        "2026-01-01 10:00:03,000 INFO an ERROR that is none\n"
    )
    for step in range(10, 310, 10):
        picture(folder / "samples" / f"step-{step:06d}.png")
    picture(folder / "samples" / "step-000300.gif")
    return folder


@pytest.fixture
def run(tmp_path):
    return make(tmp_path / "digits-1", ["d_loss"])


@pytest.fixture(scope="module")
def shown_page(tmp_path_factory):
    """The page of a run with all metrics."""
    return page(make(tmp_path_factory.mktemp("runs") / "digits-1", METRICS))


def test_everything_is_shown(shown_page):
    for name in METRICS:
        assert shown_page.text.count(f" {name} ") >= 1
    for text in ("digits-1", "conv3d model, 16 frames of 16x16x3", "30 of 60", "1.25 at step 20", "1.25 best"):
        assert text in shown_page.text
    for text in ("train.py --run-dir 'my run'", "cpu: cpp, fast", "a clip is short", "the disk is full"):
        assert text in shown_page.text
    assert "all is well" not in shown_page.text and "an ERROR" not in shown_page.text
    assert shown_page.text.count(" best ") == 2  # among the facts, and in the table
    # Losses, probabilities and gradient norms have their panels; then the other seven metrics, and the score.
    assert [kind for kind, _ in shown_page.images].count("image/svg+xml") == 3 + 7 + 1


def test_curves_are_pictures_for_light_and_dark_pages(shown_page):
    for kind, content in shown_page.images:
        if kind == "image/svg+xml":
            text = content.decode()
            assert "prefers-color-scheme:dark" in text and "currentColor" in text and "#012345" not in text
            assert text.count("<path") > 3 and "<text" in text


def test_samples_are_twelve_at_even_distances(shown_page):
    steps = {int(found[1]) for alt in shown_page.alts if (found := re.fullmatch("samples of step ([0-9]+)", alt))}
    assert len(steps) == 12 and {10, 300} < steps
    gaps = [after - before for before, after in zip(sorted(steps), sorted(steps)[1:], strict=False)]
    assert max(gaps) <= 30 and min(gaps) >= 20
    assert [kind for kind, _ in shown_page.images].count("image/gif") == 1


def test_large_pictures_are_made_smaller_or_left_out(run):
    noise = Image.frombytes("RGB", (1500, 300), random.Random(0).randbytes(1500 * 300 * 3))
    noise.save(run / "samples" / "step-000300.png")
    with (run / "samples" / "step-000300.gif").open("ab") as file:
        file.truncate(6 * 2**20)
    shown = page(run)
    assert "step-000300.gif is not shown: it has 6.0 MiB" in shown.text
    (jpeg,) = [content for kind, content in shown.images if kind == "image/jpeg"]
    assert len(jpeg) < 2**19


def test_text_from_files_is_escaped(run):
    (run / "config.yaml").write_text(yaml.safe_dump({"model": {"caption": EVIL, EVIL: [EVIL]}, EVIL: EVIL}))
    (run / "env.json").write_text(json.dumps({"command": [EVIL], "lone": "\ud800", "implementations": {EVIL: 1}}))
    (run / "metrics.jsonl").write_text(lines([{"step": 1, EVIL: 2.0, "_x": 1}]))
    (run / "evaluation.jsonl").write_text(lines([{"step": 1, EVIL: 2.0}]))
    (run / "log.txt").write_text(f"2026-01-01 10:00:01,000 WARNING {EVIL}\n")
    (run / "profile").mkdir()
    (run / "profile" / "table.txt").write_text(EVIL)
    shown = page(run)
    assert shown.text.count("<script>alert(1)</script>") >= 8 and "49" not in shown.text.split()
    assert "<script" not in shown.source and "\x00" not in shown.source and "\x1b" not in shown.source


def test_lines_cut_off_and_values_that_are_no_numbers(run):
    broken = '{"step": 40, "d_loss": NaN, "g_loss": Infinity, "d_real": null, "d_fake": "much", "diversity": 1e999}\n'
    with (run / "metrics.jsonl").open("a") as file:
        file.write(broken + "[1]\n" + '{"d_loss": 3}\n{"step": 50, "d_lo')
    with (run / "evaluation.jsonl").open("a") as file:
        file.write('{"step": 40, "coarse_frechet": NaN}\n{"step": 50')
    shown = page(run)
    for text in (
        "d_loss was not finite in 1 lines, first at step 40",
        "diversity was not finite",
        "Damaged lines of metrics.jsonl, skipped: 2.",
        "Damaged lines of evaluation.jsonl, skipped: 1.",
        "1.25 best",
    ):
        assert text in shown.text
    assert "d_real was not finite" not in shown.text


def test_a_run_of_broken_values_alone(run):
    (run / "metrics.jsonl").write_text('{"step": 1, "d_loss": NaN}\n')
    (run / "evaluation.jsonl").write_text('{"step": 1, "coarse_frechet": Infinity}\n')
    assert page(run).text.count("No finite value to show.") == 2


def test_an_empty_folder_has_a_sentence_for_each_part(tmp_path):
    shown = page(tmp_path)
    for name in ("config.yaml", "env.json", "metrics.jsonl", "evaluation.jsonl", "log.txt"):
        assert f"{name} is missing." in shown.text
    assert "The run has no samples yet." in shown.text and not shown.images


def test_damaged_files_have_a_sentence_each(run):
    (run / "config.yaml").write_text("a: [1\n b: }")
    (run / "env.json").write_text("&a {x: *a}")
    (run / "metrics.jsonl").write_bytes(b"\xff\xfe\x00[[[[\n" + b"[" * 100_000)
    (run / "evaluation.jsonl").write_text('{"step": true, "coarse_frechet": 1}\n{"step": 1e300, "x": 1}\n')
    (run / "log.txt").unlink()
    (run / "log.txt").mkdir()
    good = (run / "samples" / "step-000300.png").read_bytes()
    (run / "samples" / "step-000300.png").write_bytes(good[: len(good) // 2])
    (run / "samples" / "step-000300.gif").write_text("no picture")
    (run / "samples" / "step-999999.jpg").write_text("not mine")
    shown = page(run)
    for text in (
        "config.yaml is damaged",
        "metrics.jsonl has no readable line",
        "evaluation.jsonl has no numbers by step",
        "log.txt cannot be read",
        "step-000300.png cannot be read",
        "step-000300.gif cannot be read",
    ):
        assert text in shown.text


def test_any_bytes_in_any_file(run):
    draw = random.Random(0)
    files = [path for path in run.rglob("*") if path.is_file() and ("00300" in path.name or path.parent == run)]
    whole = {path: path.read_bytes() for path in files}
    for _ in range(8):
        for path, content in whole.items():
            content = bytearray(content)
            for _ in range(3):
                content[draw.randrange(len(content))] = draw.randrange(256)
            path.write_bytes(content[: draw.randrange(len(content) // 2, len(content) + 1)])
        page(run)


def test_every_metric_is_in_one_panel():
    names = [*METRICS, "lr", "g_lr", "d_learning_rate", "step_seconds"]
    found = [name for group in groups(names) for name in group.names]
    assert sorted(found) == sorted(names)
    by_title = {group.title: group.names for group in groups(names)}
    assert by_title["Losses"] == ("d_loss", "g_loss") and by_title["step_seconds"] == ("step_seconds",)
    assert by_title["Learning rates"] == ("lr_generator", "lr", "g_lr", "d_learning_rate")


def test_series_are_in_order_of_steps():
    found = series([{"step": 3, "a": 1}, {"step": 1, "a": 2.5, "b": True}, {"step": 2, "a": 10**400}])
    assert list(found) == ["a"] and found["a"] == ([1, 3], [2.5, 1], [2])


def test_numbers_as_text():
    assert readable([3 * 2**29], "bytes") == "1.5 GiB" and readable([2**20], "bytes") == "1 MiB"
    assert readable([0.0456], "share") == "4.6%" and readable([1234.56]) == "1235" and readable([]) == "none"


def test_without_matplotlib_a_sentence_stands_for_the_curves(run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    shown = page(run)
    assert "matplotlib is not installed" in shown.text and "d_loss 30" in shown.text
    assert "image/svg+xml" not in [kind for kind, _ in shown.images]


def test_the_better_of_two_scores_is_marked(run):
    """Higher or lower is better by the score's name; shares are shown in percent."""
    first, second = (
        {"joint": 0.5, "same_digit": 0.5, "first_frame_psnr": 20.0, "frechet": 9.0, "kernel": 4.0, "copies": 0.5},
        {"joint": 0.9, "same_digit": 0.9, "first_frame_psnr": 25.0, "frechet": 3.0, "kernel": 1.0, "copies": 0.25},
    )
    records = ({"step": step, "held_out_joint": 0.5, **scores} for step, scores in ((10, second), (20, first)))
    (run / "evaluation.jsonl").write_text(lines(records))
    shown = page(run)
    for text in ("best joint 90.0% at step 10", "best frechet 3 at step 10", "best kernel 1 at step 10"):
        assert text in shown.text
    for text in (
        "best copies 25.0% at step 10",
        "best first_frame_psnr 25 at step 10",
        "best same_digit 90.0% at step 10",
    ):
        assert text in shown.text


def test_the_best_variety_is_that_of_real_clips_and_a_frozen_clip_is_not_best(run):
    noisy, good, alike = (
        {"diversity": diversity, "varied_digit": varied, "frame_similarity": similarity, "grid_pattern": 1.0}
        for diversity, varied, similarity in ((1.6, 1.3, 0.2), (0.98, 0.9, 0.95), (0.1, 0.0, 0.9999))
    )
    records = ({"step": step, **scores} for step, scores in ((10, noisy), (20, good), (30, alike)))
    (run / "evaluation.jsonl").write_text(lines(records))
    shown = page(run)
    for text in ("best diversity 0.98 at step 20", "best varied_digit 0.9 at step 20"):
        assert text in shown.text
    assert shown.text.count(" best ") == 4  # among the facts, and in the table
    assert "best frame_similarity" not in shown.text and "best grid_pattern" not in shown.text


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*report\.html"):
        write_report(tmp_path / "missing")


def test_command_rewrites_the_report(run):
    (run / "report.html").write_text("old")
    done = command_run("fastvgan.report", "--run", run)
    assert done.returncode == 0 and done.stdout.strip() == str(run / "report.html"), done.stderr
    assert "coarse_frechet" in Page(run / "report.html").text


def test_command_names_a_folder_that_is_no_run(tmp_path):
    done = run_afresh("fastvgan.report", "--run", tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith(f"error: {tmp_path} is not a run folder") and not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="missing is not a folder"):
        from fastvgan.report import main

        main(["--run", str(tmp_path / "missing")])
    with pytest.raises(UserError, match="unknown flag --nonsense"):
        main(["--nonsense"])
