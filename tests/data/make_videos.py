"""Makes a folder of real encoded videos: a coloured square that moves, in several codecs, some of them broken.

`python tests/data/make_videos.py FOLDER` makes one to try training on.
"""

import argparse
import itertools
import os
from pathlib import Path

import av
import numpy as np

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 60, 230), "yellow": (220, 220, 40)}
MOTIONS = ("up and down", "left and right")
# suffix, codec, pixel format, options
CODECS = {
    "h264": (".mp4", "libx264", "yuv420p", {"crf": "18"}),
    "vp9": (".webm", "libvpx-vp9", "yuv420p", {"crf": "30", "b:v": "0", "deadline": "realtime", "cpu-used": "8"}),
    "vp8": (".webm", "libvpx", "yuv420p", {"deadline": "realtime", "b:v": "300k"}),
    "mjpeg": (".avi", "mjpeg", "yuvj420p", {}),
    "hevc": (".mkv", "libx265", "yuv420p", {"x265-params": "log-level=none:keyint=12"}),
    "av1": (".mkv", "libsvtav1", "yuv420p", {"preset": "12", "crf": "30", "g": "12"}),
}
os.environ.setdefault("SVT_LOG", "1")  # AV1's encoder tells of errors alone


def can_encode(codec: str) -> bool:
    """Whether this PyAV has the encoder for a codec of CODECS."""
    try:
        av.Codec(CODECS[codec][1], "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True


def encode(path: Path, frames: np.ndarray, codec: str = "h264", fps: int = 12, **options) -> Path:
    """Write uint8 (T, H, W, 3) frames to `path` with a codec of CODECS."""
    _, name, pixel_format, defaults = CODECS[codec]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(name, rate=fps)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixel_format
        stream.options = {**defaults, **options}
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture.reformat(format=pixel_format)))
        container.mux(stream.encode())
    return path


def square(colour: str, motion: str, frames: int, height: int, width: int) -> np.ndarray:
    """A square of that colour on dark ground that swings once in 16 frames; uint8 (T, H, W, 3)."""
    video = np.full((frames, height, width, 3), 16, np.uint8)
    side = min(height, width) // 3
    for t in range(frames):
        swing = (1 + np.sin(2 * np.pi * t / 16)) / 2
        across = swing if motion == "left and right" else 0.5
        down = swing if motion == "up and down" else 0.5
        top, left = int(down * (height - side)), int(across * (width - side))
        video[t, top : top + side, left : left + side] = COLOURS[colour]
    return video


def make_numbered(frames: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Frames whose number can be read back from their brightness by `number_of`; uint8 (T, H, W, 3)."""
    shades = np.array([(16 + 20 * (t % 12), 16 + 20 * (t // 12 % 12)) for t in range(frames)], np.uint8)
    video = np.empty((frames, height, width, 3), np.uint8)
    video[:, :, : width // 2] = shades[:, 0, None, None, None]
    video[:, :, width // 2 :] = shades[:, 1, None, None, None]
    return video


def number_of(frame: np.ndarray) -> int:
    """The number, up to 143, of a frame of `make_numbered`, after any scaling and lossy coding."""
    middle = frame.shape[1] // 2
    low, high = frame[:, : middle - 2].mean(), frame[:, middle + 2 :].mean()
    return round((low - 16) / 20) + 12 * round((high - 16) / 20)


def make_folder(folder: Path, clips: int = 40) -> dict[str, str]:
    """At least 40 captioned files of mixed codec, size, rate and length; two of them corrupt and one too short.

    Returns what each of the three odd files is: {name: "corrupt" or "short"}.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kinds = itertools.cycle(["h264", "vp9", "mjpeg"])
    sizes = itertools.cycle([(96, 128), (64, 64), (120, 90), (72, 160)])
    rates = itertools.cycle([8, 12, 24, 25, 30])
    looks = itertools.cycle(itertools.product(COLOURS, MOTIONS))
    for i in range(clips):
        kind, (height, width), rate, (colour, motion) = next(kinds), next(sizes), next(rates), next(looks)
        path = folder / f"clip {i:02d}{CODECS[kind][0]}"
        encode(path, square(colour, motion, 20 + i % 7 * 4, height, width), kind, rate)
        path.with_suffix(".txt").write_text(f"a {colour} square moving {motion}\n")
    cut = folder / "clip 03.mp4"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])  # the index at the end of the file is gone
    noise = folder / "clip 04.webm"
    noise.write_bytes(np.random.default_rng(0).bytes(4000))
    short = encode(folder / "clip 05.avi", square("red", "up and down", 5, 64, 64), "mjpeg")
    return {cut.name: "corrupt", noise.name: "corrupt", short.name: "short"}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder to write, made if missing")
    print(make_folder(parser.parse_args().folder))
