"""The parts of the page without a server: models, limits, temporary files, requests that are refused."""

import asyncio
import os
import re
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from visitors import frames_of, make_run

import fastvgan
from fastvgan.errors import UserError
from fastvgan.generation.shipped import SHIPPED
from fastvgan.page.files import Files
from fastvgan.page.guard import Guard
from fastvgan.page.live import LiveRuns
from fastvgan.page.making import Making, as_message
from fastvgan.page.models import Models


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def age(path, seconds):
    os.utime(path, (time.time() - seconds,) * 2)


def test_models_are_listed_with_the_newest_run_first(place):
    for number in (1, 2):
        age(make_run(place / "runs" / f"digits-{number}") / "config.yaml", 100 * number)
    (place / "runs" / "bare-1").mkdir()
    (place / "runs" / "bare-1" / "config.yaml").touch()  # has no generator yet
    assert Models().names() == ["runs/digits-1", "runs/digits-2", "digits"]
    assert Models("runs/digits-2").names() == ["runs/digits-2", "runs/digits-1", "digits"]
    assert Models("runs/digits-2/").names() == ["runs/digits-2", "runs/digits-1", "digits"]
    assert LiveRuns().names() == ["runs/bare-1", "runs/digits-1", "runs/digits-2"]


@pytest.mark.parametrize("name", ["../secret", "runs/../secret", "runs/digits-1/../../secret", "secret", "", None])
def test_only_listed_models_and_runs_are_opened(place, name):
    make_run(place / "runs" / "digits-1")
    make_run(place / "secret")
    make_run(place.parent / f"{place.name}-secret")
    with pytest.raises(UserError, match="there is no model .*; choose one of runs/digits-1, digits"):
        Models().open(name)
    with pytest.raises(UserError, match="there is no run .*; choose one of runs/digits-1"):
        LiveRuns().view(name)


def test_few_models_stay_in_memory_and_a_changed_one_is_loaded_again(place):
    names = [str(make_run(place / "runs" / f"digits-{number}").relative_to(place)) for number in range(4)]
    models = Models()
    first = models.open(names[0])
    assert models.open(names[0]) is first
    for name in names[1:]:
        models.open(name)
    assert models.open(names[0]) is not first  # four models do not stay
    last = models.open(names[3])
    assert models.open(names[3]) is last
    path = place / names[3] / "export" / "generator.safetensors"
    age(path, 1000)
    assert models.open(names[3]) is not last


def test_the_shipped_model_is_opened_by_its_name(place, monkeypatch):
    run, calls = make_run(place / "elsewhere"), []

    def from_pretrained(name, device):
        calls.append(name)
        return fastvgan.load(run, device)

    monkeypatch.setattr(fastvgan, "from_pretrained", from_pretrained, raising=False)
    assert Models().form("digits").follows == ("text",) and calls == [str(SHIPPED["digits"])]


def test_a_folder_hides_the_shipped_model_of_its_name_only_if_it_was_named(place, monkeypatch):
    (place / "digits").mkdir()
    assert Models().open("digits").config == fastvgan.load(SHIPPED["digits"]).config
    with pytest.raises(UserError, match="digits holds no generator"):
        Models("digits").open("digits")
    make_run(place / "run").rename(place / "digits" / "run")
    assert Models("digits/run").open("digits").config.frames == 16


def test_the_form_asks_for_what_the_model_follows(place):
    make_run(place / "runs" / "text-1")
    make_run(place / "runs" / "both-1", condition=("class", "image"), family="recurrent")
    make_run(place / "runs" / "other-1", vocabulary=("dog", "runs"))
    text, both, other = (Models().form(f"runs/{name}-1") for name in ("text", "both", "other"))
    assert text.follows == ("text",) and not text.is_any_length
    assert "a blue 5 moving left and right" in text.examples
    assert both.follows == ("class", "image") and both.classes == ("cat", "dog") and both.is_any_length
    assert both.examples == both.words == ()
    assert other.examples == () and other.words == ("dog", "runs")


@pytest.fixture
def making(place):
    make_run(place / "runs" / "text-1")
    make_run(place / "runs" / "both-1", condition=("class", "image"), family="recurrent")
    (place / "files").mkdir()
    return Making(Models(), Files(place / "files"))


def made_frames(place, frames=16):
    """The clips of the last request, by their pictures."""
    folder = max((place / "files").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    return np.stack([frames_of(path.read_bytes(), frames) for path in sorted(folder.glob("*.png"))])


def test_a_first_frame_and_a_class_make_the_clips_of_the_generator(place, making):
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(picture).save(place / "first.png")
    html = making.clips("runs/both-1", None, str(place / "first.png"), "dog", 7, 2, 5)
    expected = fastvgan.load("runs/both-1").generate(image=picture, label="dog", n=2, seed=7, frames=5)
    assert np.array_equal(made_frames(place, 5), expected)
    assert "--image FIRST_FRAME --label dog --n 2 --seed 7 --frames 5" in html


def test_clips_between_two_sentences_are_shown_in_order(place, making, monkeypatch):
    videos = torch.randint(0, 256, (3, 16, 16, 16, 3), dtype=torch.uint8)
    calls = []

    def interpolate(self, first, second, **options):
        calls.append((first, second, options))
        return SimpleNamespace(to_tensor=lambda: videos)

    monkeypatch.setattr(fastvgan.VideoGenerator, "interpolate", interpolate, raising=False)
    html = making.between("runs/text-1", " a red 1 ", "a blue 2", 5, 3, 16)
    assert calls == [("a red 1", "a blue 2", {"steps": 3, "seed": 5, "frames": None})]
    assert np.array_equal(made_frames(place), videos)
    assert html.index(">0%<") < html.index(">50%<") < html.index(">100%<")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"text": "zebra"}, "the caption &#39;zebra&#39; has words that were not in the training captions"),
        ({"text": "  "}, "type a sentence first"),
        ({"text": "a" * 501}, "the sentence has 501 letters; shorten it to 500"),
        ({"count": 17}, "the number of clips is 17; choose a whole number from 1 to 16"),
        ({"count": 0}, "the number of clips is 0"),
        ({"seed": -1}, "the seed is -1; choose a whole number from 0 to"),
        ({"seed": None}, "the seed is None"),
        ({"frames": 65}, "the length in frames is 65; choose a whole number from 1 to 64"),
        ({"name": "runs/both-1"}, "upload the first frame first"),
        ({"name": "runs/both-1", "image": "words.txt"}, r"the picture words\.txt cannot be used"),
        ({"name": "runs/both-1", "image": "first.png", "label": "cow"}, "unknown class .*cow"),
        ({"name": "../text-1"}, "there is no model"),
    ],
)
def test_bad_input_is_a_message_and_makes_no_file(place, making, values, sentence):
    (place / "words.txt").write_text("no picture")
    Image.new("RGB", (16, 16)).save(place / "first.png")
    given = {"name": "runs/text-1", "text": "a red 7", "image": None, "label": "cat", "seed": 0, "count": 2} | values
    given = {"frames": 16} | given
    arguments = [given[name] for name in ("name", "text", "image", "label", "seed", "count", "frames")]
    with pytest.raises(UserError):
        making.clips(*arguments)
    html = as_message(making.clips)(*arguments)
    assert 'role="alert"' in html and re.search(sentence, html), html
    assert not list((place / "files").iterdir())


def test_a_model_that_follows_more_than_text_has_nothing_between_sentences(making):
    with pytest.raises(UserError, match="runs/both-1 follows class and image; choose a model that follows text only"):
        making.between("runs/both-1", "a red 1", "a blue 2", 0, 3, 16)


def test_text_from_visitors_and_runs_is_escaped(place, making):
    html = as_message(making.clips)("runs/text-1", "<script>alert(1)</script>", None, None, 0, 1, 16)
    assert "<script" not in html and "&lt;script&gt;" in html


def test_old_and_surplus_files_are_deleted(tmp_path):
    files = Files(tmp_path, most_seconds=60, most_bytes=350)
    names = {"old": 61, "middle": 30, "new": 1}
    for name, seconds in names.items():
        folder = files.new_folder()
        (folder / name).write_bytes(b"x" * 100)
        age(folder / name, seconds)
    files.sweep()
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"middle", "new"}
    (files.new_folder() / "large").write_bytes(b"x" * 200)
    files.sweep()  # 400 bytes: the oldest one exceeds the limit
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"new", "large"}
    for folder in tmp_path.iterdir():
        age(folder, 100)
    files.sweep()
    assert len(list(tmp_path.iterdir())) == 2  # folders of deleted files are deleted, too


def ask(folder, path, method="GET", body=b"", headers=()):
    """The status with which a guarded application answers a request; 200 is the application's."""
    seen = []

    async def app(scope, receive, send):
        seen.append((await receive())["body"] if method == "POST" else b"")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive():
        return next(messages)  # a server gives a body once

    answers = []

    async def send(message):
        answers.append(message)

    length = [(b"content-length", str(len(body)).encode())] if not headers else list(headers)
    scope = {"type": "http", "method": method, "path": path, "headers": length}
    asyncio.run(Guard(app, Files(folder, most_bytes=350))(scope, receive, send))
    assert seen == ([body if method == "POST" else b""] if answers[0]["status"] == 200 else [])
    return answers[0]["status"]


def test_the_guard_lets_the_page_and_its_files_through_only(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "clip.gif").touch()
    (tmp_path / "secret").touch()
    (folder / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "files-too").mkdir()
    (tmp_path / "files-too" / "x").touch()
    for path in ("/", "/config", "/assets/x.js", "/gradio_api/queue/data", f"/gradio_api/file={folder}/clip.gif"):
        assert ask(folder, path) == 200, path
    for name in ("secret", "files/../secret", "files/link", "files-too/x", "files", "files/missing", "files/a\0b"):
        assert ask(folder, f"/gradio_api/file={tmp_path}/{name}") == 403, name
    for path in ("/gradio_api/file=clip.gif", "/gradio_api/file=http://example.com/x", "/gradio_api/file/x", "/docs",
                 "/gradio_api/proxy=http://example.com/", "/gradio_api/vibe-edit", "/monitoring", "/openapi.json",
                 "/gradio_api/info/../file=x", "/gradio_api/stream/x"):  # fmt: skip
        assert ask(folder, path) == 403, path


def test_the_guard_bounds_bodies_and_refuses_files_of_other_sites(tmp_path):
    join, upload = "/gradio_api/queue/join", "/gradio_api/upload"
    assert ask(tmp_path, join, "POST", b'{"data": ["https://example.com", {"path": "/x"}]}') == 200
    for url in (b"http://example.com/x.png", b"https://example.com/x.png", b"file:///etc/hostname"):
        assert ask(tmp_path, join, "POST", b'{"data": [{"meta": {}, "path": "%s"}]}' % url) == 403
    for path, most in ((join, 2**20), (upload, 11 * 2**20)):
        assert ask(tmp_path, path, "POST", b"x", [(b"content-length", str(most).encode())]) == 200
        assert ask(tmp_path, path, "POST", b"x", [(b"content-length", str(most + 1).encode())]) == 413
        assert ask(tmp_path, path, "POST", b"x", [(b"transfer-encoding", b"chunked")]) == 413


def test_an_upload_deletes_the_oldest_files_above_the_limit(tmp_path):
    for seconds in (1, 2, 3, 4):
        (tmp_path / str(seconds)).write_bytes(b"x" * 100)
        age(tmp_path / str(seconds), seconds)
    assert ask(tmp_path, "/gradio_api/upload", "POST", b"picture") == 200
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2", "3"}


def test_a_run_is_shown_without_its_unfinished_line_and_with_its_state(place):
    run = place / "runs" / "digits-1"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    (run / "metrics.jsonl").write_text('{"step": 1, "d_loss": 1}\n{"step": 2, "d_')
    runs = LiveRuns()
    first = runs.view("runs/digits-1")
    assert "fv-training" in first.state and "<dd>1</dd>" in first.body and "amaged" not in first.body
    assert runs.view("runs/digits-1").stamp == first.stamp
    (run / "metrics.jsonl").write_text('{"step": 1, "d_loss": 1}\n{"step": 2, "d_loss": 1}\n')
    second = runs.view("runs/digits-1")
    assert "<dd>2</dd>" in second.body and second.stamp != first.stamp
    for path in run.iterdir():
        age(path, 7300)
    assert "fv-stopped" in runs.view("runs/digits-1").state and "2 hours ago" in runs.view("runs/digits-1").state


@pytest.mark.parametrize(
    "end", ["INFO trained to the last step, 6", "WARNING stopped by SIGINT after step 6; resume with --resume auto"]
)
def test_a_run_has_ended_when_its_log_says_so(place, end):
    """`fastvgan report` may write report.html at any time."""
    run = place / "runs" / "digits-1"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    begun = "2026-01-01 10:00:00,000 INFO conv3d model, 16 frames of 16x16x3, condition: none\n"
    (run / "log.txt").write_text(begun)
    (run / "report.html").touch()
    runs = LiveRuns()
    assert "fv-training" in runs.view("runs/digits-1").state
    with (run / "log.txt").open("a") as log:
        log.write(f"2026-01-01 10:00:01,000 {end}\n")
    assert "fv-ended" in runs.view("runs/digits-1").state
    age(run / "log.txt", 5)
    (run / "report.html").touch()
    assert "fv-ended" in runs.view("runs/digits-1").state
    with (run / "log.txt").open("a") as log:
        log.write(begun.replace("10:00", "11:00") + "2026-01-01 11:00:01,000 WARNING a clip is short\n" * 5)
    assert "fv-training" in runs.view("runs/digits-1").state
