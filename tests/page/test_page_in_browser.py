"""The page of `fastvgan demo` in a real browser: a visitor makes clips, and watches runs."""

import contextlib
import http.client
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import av
import numpy as np
import pytest
from commands import start
from PIL import Image
from visitors import frames_of, make_run

import fastvgan

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
IS_REQUIRED = os.environ.get("FASTVGAN_REQUIRE_BROWSER") == "1"
REFUSED = ["InvalidPathError", "Error", "Error"]
PATIENCE = 60_000  # milliseconds, for machines that do other work, too


def missing():
    """Why there can be no browser test here, or None."""
    for name in ("gradio", "playwright"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed (pip install 'fastvgan[test]')"
    if not any(map(shutil.which, BROWSERS)):
        return f"no browser is installed ({', '.join(BROWSERS)})"
    return None


def test_a_browser_is_there_where_it_is_required():
    assert not IS_REQUIRED or missing() is None


def write_training_run(folder, steps):
    """A run in training: whole lines of metrics, then one that is being written."""
    for name in ("samples", "export"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"step": step, "d_loss": 1 + 1 / step, "g_loss": 2.0}) + "\n" for step in steps]
    (folder / "metrics.jsonl").write_text("".join(lines) + '{"step": 99, "d_l')
    (folder / "evaluation.jsonl").write_text(json.dumps({"step": steps[-1], "digit": 0.25}) + "\n")
    pictures = [Image.new("RGB", (32, 32), (value, 0, 0)) for value in (50, 250)]
    pictures[0].save(folder / "samples" / f"step-{steps[-1]:06d}.gif", save_all=True, append_images=pictures[1:])
    pictures[0].save(folder / "samples" / f"step-{steps[-1]:06d}.png")


@pytest.fixture
def runs(tmp_path):
    """Four runs: two with generators, one in training, one broken."""
    folder = tmp_path / "runs"
    make_run(folder / "words-1")
    make_run(folder / "image-1", condition=("image",), family="recurrent")
    write_training_run(folder / "training-1", [10, 20])
    (folder / "training-1" / "config.yaml").write_text("training: {steps: 60}")
    (folder / "broken-1").mkdir()
    for name in ("config.yaml", "metrics.jsonl", "log.txt"):
        (folder / "broken-1" / name).write_bytes(b"]\xff: {\n")
    return folder


@pytest.fixture
def server(tmp_path, runs):
    """The command as a process; yields the address of its page and checks how it ends."""
    if reason := missing():
        pytest.skip(reason)
    (tmp_path / "tmp").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A visitor's settings of Gradio must open nothing.
    settings = {"TMPDIR": str(tmp_path / "tmp"), "GRADIO_ALLOWED_PATHS": str(tmp_path), "GRADIO_ANALYTICS_ENABLED": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        process = start(
            "fastvgan.demo", "--run", "runs/words-1", "--port", port, "--no-browser", "--device", "cpu", cwd=tmp_path
        )
    try:
        line = process.stdout.readline()
        assert line == f"the page is at http://127.0.0.1:{port}/; Ctrl-C stops it\n", line + process.stdout.read()
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    # Gradio logs what it refuses in `_reaches_nothing_else`; nothing else may fail.
    faults = re.findall(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Warning)\b", rest, re.MULTILINE)
    assert [fault.rpartition(".")[2] for fault in faults] == REFUSED and rest.count("Traceback") == len(REFUSED), rest
    assert not list((tmp_path / "tmp").iterdir()), "temporary files were left"


@pytest.fixture
def page(server):
    """A visitor's page, which must ask no other host and log no error."""
    from playwright.sync_api import sync_playwright

    hosts, faults = set(), []
    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, BROWSERS)))
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
        context.set_default_timeout(PATIENCE)
        context.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.goto(server)
        yield page
        browser.close()
    assert hosts - {""} == {urlsplit(server).netloc} and not faults


def keep(page, name, tmp_path):
    """Keep a screenshot for people to look at."""
    folder = Path(os.environ.get("FASTVGAN_SCREENSHOTS", tmp_path / "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png", full_page=True)


def choose(page, box, option):
    page.locator(f"#{box} input").click()
    page.get_by_role("option", name=option).click()


def download(page, link):
    with page.expect_download() as waiting:
        link.click()
    return Path(waiting.value.path()).read_bytes(), waiting.value.suggested_filename


def test_a_visitor_makes_clips_and_watches_training(page, server, runs, tmp_path):
    _makes_clips(page, runs, tmp_path)
    _interpolates(page, runs, tmp_path)
    _reads_a_message(page, tmp_path)
    _sees_the_form_of_another_model(page, runs, tmp_path)
    _watches_runs(page, runs, tmp_path)
    _reaches_nothing_else(server, runs)


def pictures(page, place, frames=16):
    """The clips that the page shows in one place, uint8 (N, T, H, W, 3)."""
    addresses = page.locator(f"{place} .fv-clip img").evaluate_all("found => found.map(one => one.src)")
    return np.stack([frames_of(page.request.get(address).body(), frames) for address in addresses])


def _makes_clips(page, runs, tmp_path):
    page.fill("#text textarea", "a red 7 moving up")
    page.fill("#seed input", "3")
    page.click("#make")
    page.locator("#result .fv-clip img").nth(3).wait_for()
    expected = fastvgan.load(runs / "words-1").generate(text="a red 7 moving up", n=4, seed=3)
    assert np.array_equal(pictures(page, "#result"), expected)
    # Drawn without smoothing, at several times its size.
    first = page.locator("#result .fv-clip img").first
    first.evaluate("one => one.decode()")
    assert first.evaluate("one => getComputedStyle(one).imageRendering") == "pixelated"
    assert first.bounding_box()["width"] >= 6 * first.evaluate("one => one.naturalWidth")
    mp4, name = download(page, page.locator("#result .fv-clip a").first)
    assert name == "a-red-7-moving-up-1.mp4"
    with av.open(io.BytesIO(mp4)) as video:
        assert sum(1 for _ in video.decode(video=0)) == 16
    gif, name = download(page, page.locator("#result > div > section > p a, #result .fv-links a").last)
    assert name == "a-red-7-moving-up-all.gif"
    with Image.open(io.BytesIO(gif)) as picture:
        assert picture.n_frames == 16
    keep(page, "clips", tmp_path)


def _interpolates(page, runs, tmp_path):
    page.get_by_role("tab", name="Interpolate").click()
    page.fill("#first textarea", "a red 7 moving up")
    page.fill("#second textarea", "a blue 5 moving down")
    page.fill("#between-seed input", "3")
    page.click("#make-between")
    page.locator("#between .fv-clip img").nth(5).wait_for()
    made, generator = pictures(page, "#between"), fastvgan.load(runs / "words-1")
    for clip, text in ((made[0], "a red 7 moving up"), (made[5], "a blue 5 moving down")):
        assert np.array_equal(clip, generator.generate(text=text, seed=3)[0])
    assert len({clip.tobytes() for clip in made}) == 6
    keep(page, "interpolation", tmp_path)
    page.get_by_role("tab", name="Generate").click()


def _reads_a_message(page, tmp_path):
    page.fill("#text textarea", "a red ${1 + 1} zebra {{7 * 7}} <b>x</b>")
    page.keyboard.press("Enter")
    message = page.locator("#result [role=alert]")
    message.wait_for()
    text = message.inner_text()
    assert text.startswith("the caption 'a red ${1 + 1} zebra {{7 * 7}} <b>x</b>' has words that were not in the")
    assert "Traceback" not in page.content()
    keep(page, "message", tmp_path)
    page.get_by_text("a green 3 moving diagonally").click()
    page.locator("#result h3", has_text="a green 3 moving diagonally").wait_for()


def _sees_the_form_of_another_model(page, runs, tmp_path):
    for part in ("text", "examples"):
        assert page.locator(f"#{part}").is_visible()
    choose(page, "model", "runs/image-1")
    page.locator("#image").wait_for()
    page.locator("#frames").wait_for()
    for part in ("text", "examples", "label"):
        assert not page.locator(f"#{part}").is_visible()
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "first.png")
    page.set_input_files("#image input[type=file]", tmp_path / "first.png")
    page.locator("#image img").wait_for()
    page.click("#make")
    page.locator("#result h3", has_text="the first frame, continued").wait_for()
    expected = fastvgan.load(runs / "image-1").generate(image=picture, n=4, seed=3)
    assert np.array_equal(pictures(page, "#result"), expected)


def _watches_runs(page, runs, tmp_path):
    page.get_by_role("tab", name="Watch training").click()
    choose(page, "run", "runs/training-1")
    facts = page.locator("#live .fv-facts")
    facts.get_by_text("20 of 60").wait_for()
    page.locator("#state", has_text="training").wait_for()
    assert page.locator("#live .fv-card img").count() == 2  # losses, and the score
    assert "damaged" not in page.inner_text("#live").lower()
    write_training_run(runs / "training-1", [10, 20, 30])
    facts.get_by_text("30 of 60").wait_for()  # without a click
    assert page.locator("#live img.fv-samples").get_attribute("alt") == "samples of step 30, moving"
    keep(page, "training", tmp_path)
    choose(page, "run", "runs/broken-1")
    page.locator("#live", has_text="metrics.jsonl has no readable line.").wait_for()
    with (runs / "broken-1" / "log.txt").open("a") as log:
        log.write("2026-01-01 10:00:00,000 INFO trained to the last step, 60\n")
    page.locator("#state", has_text="ended").wait_for()


def ask(server, method, path, body=None, **headers):
    connection = http.client.HTTPConnection(urlsplit(server).netloc, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")


def _reaches_nothing_else(server, runs):
    """As a page of another site, or a program, would try it."""
    secret = runs / "words-1" / "config.yaml"
    assert "vocabulary" in secret.read_text()
    for path in (str(secret), f"{runs}/image-1/../words-1/config.yaml", "runs/words-1/config.yaml", "/etc/hostname"):
        for prefix in ("/gradio_api/file=", "/file=", "/gradio_api/file/"):
            status, text = ask(server, "GET", prefix + path)
            assert status in (403, 404) and "vocabulary" not in text, path
    assert ask(server, "GET", "/", Host="example.com")[0] == 400
    assert ask(server, "GET", "/gradio_api/file=http://example.com/x.png")[0] == 403
    assert ask(server, "GET", "/monitoring")[0] == 403
    settings = json.loads(ask(server, "GET", "/config")[1])
    image = next(part["id"] for part in settings["components"] if part["props"].get("elem_id") == "image")
    event = next(event for event in settings["dependencies"] if image in event["inputs"])
    for name, file in (("runs/image-1", str(secret)), ("../runs/image-1", None), ("runs/../runs/image-1", None)):
        picture = file and {"path": file, "meta": {"_type": "gradio.FileData"}}
        data = [name, "a red 7", picture, None, 0, 1, 16]
        body = json.dumps({"data": data, "fn_index": event["id"], "session_hash": "visitor", "trigger_id": None})
        assert ask(server, "POST", "/gradio_api/queue/join", body, **{"Content-Type": "application/json"})[0] == 200
        _, events = ask(server, "GET", "/gradio_api/queue/data?session_hash=visitor")
        found = [json.loads(line[5:]) for line in events.splitlines() if line.startswith("data:")]
        done = next(one for one in found if one["msg"] == "process_completed")
        assert not done["success"] and not re.search("vocabulary|fv-clip", events), events
        time.sleep(0.1)  # Gradio ends the first session in its own thread
