"""Files that are broken, each in one way, as real ones are: `BROKEN` has the ten ways, with the reason to be given."""

import os
import shutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from make_videos import encode, make_numbered


def empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def text(path: Path) -> Path:
    path.write_text("no video\n" * 50)
    return path


def cut_in_the_middle(path: Path) -> Path:
    """The second half is missing; the container has no index, so that the first half still plays."""
    good = encode(path.with_suffix(".whole.avi"), _lively(60), "mjpeg").read_bytes()
    path.with_suffix(".whole.avi").unlink()
    path.write_bytes(good[: len(good) // 2])
    return path


def corrupt_in_the_middle(path: Path) -> Path:
    encode(path, _lively(60), "h264")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + len(data) // 10] = np.random.default_rng(0).bytes(len(data) // 10)
    path.write_bytes(data)
    return path


def audio_only(path: Path) -> Path:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def one_frame(path: Path) -> Path:
    return encode(path, make_numbered(1))


def variable_size(path: Path) -> Path:
    """Two H.264 streams of different sizes, one after the other, as live streams have them."""
    small, large = path.with_suffix(".1.ts"), path.with_suffix(".2.ts")
    encode(small, make_numbered(12, 48, 64))
    encode(large, make_numbered(12, 96, 128))
    path.write_bytes(small.read_bytes() + large.read_bytes())
    small.unlink()
    large.unlink()
    return path


def variable_rate(path: Path, frames: int = 30) -> Path:
    """Frames 40 ms apart, then 120 ms apart, as phones make them when it grows dark."""
    return at_times(path, np.cumsum([0, *[40] * (frames // 2), *[120] * (frames - frames // 2 - 1)]))


def at_times(path: Path, times: Sequence[int]) -> Path:
    """A frame at each of these times in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time, frame in zip(times, make_numbered(len(times)), strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")
            picture.pts, picture.time_base = int(time), Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def unknown_codec(path: Path) -> Path:
    """A codec that nobody has, by its name in both headers of an AVI file."""
    made = encode(path.with_suffix(".known.avi"), make_numbered(12), "mjpeg")
    path.write_bytes(made.read_bytes().replace(b"MJPG", b"XYZ9"))
    made.unlink()
    return path


def no_permission(path: Path) -> Path:
    encode(path, make_numbered(12))
    path.chmod(0)
    return path


BROKEN = {
    empty: (".mp4", "is empty"),
    text: (".mp4", "is not a video file"),
    cut_in_the_middle: (".avi", "truncated|damaged"),
    corrupt_in_the_middle: (".mp4", "damaged|truncated"),
    audio_only: (".mp4", "has no video stream"),
    one_frame: (".mp4", "has only one frame, fewer than 2"),
    variable_size: (".ts", "changes its size at frame 12, from 64x48 to 128x96"),
    variable_rate: (".mp4", "has a variable frame rate"),
    unknown_codec: (".avi", "has a codec that FFmpeg does not know"),
    no_permission: (".mp4", "cannot be read: Permission denied"),
}


def without_root_rights(command: list[str]) -> list[str] | None:
    """The command, run so that permissions hold for it; None where that cannot be done here."""
    if os.geteuid() != 0:
        return command
    if shutil.which("setpriv") is None:
        return None
    dropped = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}", *command]


def _lively(frames: int) -> np.ndarray:
    """Frames with enough in them that what is broken is noticed."""
    noise = np.random.default_rng(0).integers(-25, 25, (frames, 96, 128, 3))
    return np.clip(make_numbered(frames, 96, 128) + noise, 0, 255).astype(np.uint8)
