"""Encode frames as video files, by PyAV."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np

_ENCODERS = {
    "h264": ("libx264", {"crf": "16"}),
    "vp9": ("libvpx-vp9", {"crf": "20", "b:v": "0", "deadline": "good", "cpu-used": "4", "lag-in-frames": "0"}),
}
# Key frames at even distances only, and no frame that waits for one behind the next key frame.
_CLOSED = {
    "libx264": {"sc_threshold": "0", "bf": "0", "flags": "+cgop"},
    "libvpx-vp9": {"auto-alt-ref": "0"},
}


def encode(path: Path, frames: Iterable[np.ndarray], fps: float, codec: str = "h264", gop: int | None = None) -> int:
    """Encode frames in yuv420p at a constant rate, and return their number.

    Odd sizes, which yuv420p does not support, are padded by repeating the last row or column.

    Args:
        path: .mp4 for "h264", .webm for "vp9".
        frames: uint8 (H, W, 3) each, of one size.
        fps: frames per second.
        codec: "h264" or "vp9".
        gop: frames per closed group of pictures, each of which starts with a key frame; by default the encoder decides.

    Raises:
        OSError: the file cannot be written.
    """
    name, options = _ENCODERS[codec]
    if name == "libx264" and name not in av.codecs_available:
        name, options = "mpeg4", {"q:v": "3"}
    if gop is not None:
        options = {**options, "g": str(gop), **_CLOSED.get(name, {})}
    count, stream = 0, None
    # Without dates and random numbers: equal frames make equal files.
    muxer = {"fflags": "+bitexact", **({"movflags": "faststart"} if path.suffix == ".mp4" else {})}
    with av.open(str(path), "w", options=muxer) as container:
        for frame in frames:
            count += 1
            height, width, _ = frame.shape
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            if stream is None:
                added = container.add_stream(name, rate=Fraction(fps).limit_denominator(1001), options=options)
                stream = cast(av.VideoStream, added)  # PyAV derives the type from a literal name only
                stream.height, stream.width, stream.pix_fmt = *frame.shape[:2], "yuv420p"
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        if stream is not None:
            container.mux(stream.encode())
    return count
