"""The whole command, `python -m fastvgan.train`: videos per second and the share of time it waits for data.

Both are read from metrics.jsonl once the command runs steadily; then it is stopped. This part makes its own clips:
shards of decoded frames, and H.264 files if PyAV can write them, decoded by DALI if it is installed and by PyAV on all
cores.
"""

import functools
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import part
from part import ON_GPU, ROOT, Unit
from support.variants import TINY

CLIPS, FRAMES = (8, 16) if TINY else (512, 32)
SIZE = 16 if TINY else 64  # of clips-64
H264_CLIPS, H264_SIZE = (4, 160) if TINY else (256, 256)
STEADY_LINES, SECONDS = (1, 0.5) if TINY else (5, 6.0)  # lines of metrics to skip, then seconds of metrics to use
LIMIT = 120.0 if TINY else 45.0  # seconds until it must run steadily
H264 = ["--preset", "clips-64", "--data", "{h264}", "--root", "{files}"]
COMMANDS = {
    "digits": ["--preset", "digits"],
    "reference": ["--preset", "reference"],
    "clips-64 from shards": ["--preset", "clips-64", "--data", "{shards}"],
    "digits-conv3d": ["--preset", "digits-conv3d"],
    "clips-64 from H.264 by DALI": [*H264, "--decoder", "dali", "--workers", "4"],
    "clips-64 from H.264 by PyAV": [*H264, "--decoder", "pyav"],
}
SMALL = ["--base-width", "2", "--batch-size", "2", "--height", "16", "--width", "16", "--frames", "4", "--refine", "0"]


@functools.cache
def folder() -> Path:
    """Make the folder for clips and runs, which is removed when the process ends."""
    made = tempfile.TemporaryDirectory(prefix="fastvgan-bench-")
    folder.keep = made
    return Path(made.name)


@functools.cache
def shards() -> Path:
    """Prepare decoded clips from strips of frames, as a user would."""
    from PIL import Image

    source, size = folder() / "strips", SIZE
    source.mkdir()
    rng = np.random.default_rng(0)
    for i in range(CLIPS):
        frames = rng.integers(0, 256, (FRAMES, 8, 8, 3), dtype=np.uint8).repeat(size // 8, 1).repeat(size // 8, 2)
        Image.fromarray(np.concatenate(list(frames), 1)).save(source / f"{i:04}.png", compress_level=1)
    out = folder() / "shards"
    command = [sys.executable, "-m", "fastvgan.prepare", source, out, "--to", "shards", "--layout", "strips"]
    _run_quietly([*command, "--height", str(size), "--width", str(size)])
    return out


@functools.cache
def h264() -> Path:
    """Make clips of 256x256 in H.264 with a key frame every 12 frames, and their manifest."""
    spec = importlib.util.spec_from_file_location("make_videos", ROOT / "tests" / "data" / "make_videos.py")
    make_videos = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_videos)
    source = folder() / "h264"
    source.mkdir()
    colours = list(make_videos.COLOURS)
    for i in range(H264_CLIPS):
        square = make_videos.square(colours[i % 4], make_videos.MOTIONS[i % 2], 48, H264_SIZE, H264_SIZE)
        make_videos.encode(source / f"{i:04}.mp4", square, "h264", preset="ultrafast", g="12")
    out = folder() / "manifest"
    _run_quietly([sys.executable, "-m", "fastvgan.prepare", source, out])
    return out


def measure(name: str) -> dict:
    """Start the command, read its metrics until enough of them are steady, and stop it."""
    run = folder() / name.replace(" ", "-")
    made = {"shards": shards, "h264": h264, "files": lambda: folder() / "h264"}
    flags = [made[flag[1:-1]]() if flag.startswith("{") else flag for flag in COMMANDS[name]]
    if name.endswith("PyAV"):
        flags += ["--workers", str(os.cpu_count())]
    if any("{" in flag for flag in COMMANDS[name]):
        flags += ["--condition", "none"]
    command = [sys.executable, "-m", "fastvgan.train", *map(str, flags), "--run-dir", str(run), "--steps", "1000000"]
    command += ["--log-every", "1" if TINY else "50", "--sample-every", "1000000", "--checkpoint-every", "1000000"]
    command += SMALL if TINY else []
    begin = time.monotonic()
    log = (folder() / "log.txt").open("w+")
    process = subprocess.Popen(command, cwd=ROOT, env=_environment(), stdout=log, stderr=subprocess.STDOUT)
    try:
        lines, started = _read_steady_lines(process, run / "metrics.jsonl", begin)
    except RuntimeError as error:
        log.seek(0)
        raise RuntimeError(f"{error}: {log.read()[-300:]}") from None
    finally:
        _stop(process)
        log.close()
    rates, waits = ([line[key] for line in lines] for key in ("videos_per_second", "data_wait"))
    found = {"command": name, "videos_per_s": round(statistics.median(rates), 1), "lines": len(lines)}
    return {**found, "data_wait": round(statistics.median(waits), 4), "start_s": round(started, 1)}


def _read_steady_lines(process, path: Path, begin: float) -> tuple[list[dict], float]:
    """Return the metrics of SECONDS seconds after the first lines, and the seconds from the start to these lines."""
    since = None
    while True:
        time.sleep(0.05)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        steady = [line for line in lines[STEADY_LINES:] if line.endswith("}")]
        if since is None and steady:
            since = time.monotonic()
        if since is not None and time.monotonic() - since >= SECONDS:
            return [found for found in map(json.loads, steady) if "videos_per_second" in found], since - begin
        if process.poll() is not None:
            raise RuntimeError(f"the command ended with status {process.returncode}")
        if since is None and time.monotonic() - begin > LIMIT:
            raise RuntimeError(f"the command did not reach steady metrics within {LIMIT:.0f} s")


def _stop(process) -> None:
    """Stop the command as Ctrl-C does, after a checkpoint; kill it if that takes too long."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _environment() -> dict[str, str]:
    """Return the user's environment without the benchmarks' variables, and with the checkout's package."""
    kept = {k: v for k, v in os.environ.items() if k not in ("FASTVGAN_IMPL", "FASTVGAN_TUNE", "TRITON_INTERPRET")}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}


def _run_quietly(command: list) -> None:
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=_environment(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(map(str, command[1:4]))} ended with status {done.returncode}: {done.stderr[-300:]}"
        )


def units() -> list[Unit]:
    dali = importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.dali")
    names = [name for name in COMMANDS if not ("DALI" in name and not (dali and ON_GPU))]
    if "clips-64 from H.264 by DALI" not in names:
        print("command: skipping DALI, which needs a GPU and the package nvidia-dali")
    return [Unit(name, functools.partial(measure, name), expected=20.0) for name in names]


if __name__ == "__main__":
    sys.exit(part.main("command", "commands", units))
