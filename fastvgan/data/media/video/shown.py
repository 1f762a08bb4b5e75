"""How a video's stored frames are to be shown: turned, mirrored, and with pixels that may not be square."""

import math
import struct
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import Interpolation, VideoReformatter

from fastvgan.data.media.types import BadVideo, cover

# By areas; without the second flag colours are halved in resolution again wherever the width is even.
_SCALING = Interpolation.AREA | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND


class Orientation(NamedTuple):
    """How a stored frame is made upright: mirrored from left to right if `mirrored`, then turned.

    quarters: right angles to turn by, counter-clockwise, 0 to 3.
    """

    quarters: int = 0
    mirrored: bool = False

    def upright(self, pixels: np.ndarray) -> np.ndarray:
        """A view of (H, W, C) pixels as they are to be shown."""
        return np.rot90(pixels[:, ::-1] if self.mirrored else pixels, self.quarters)

    def swap(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of one form, stored or shown, from those of the other."""
        return (width, height) if self.quarters % 2 else (height, width)


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """The orientation that a frame's display matrix asks for.

    The matrix sends a stored point (x, y) to (ax + cy, bx + dy), y downwards (ISO/IEC 14496-12, 6.2.2). FFmpeg's
    command line reads it the same way: the lengths of its rows do not count, and one of zeros asks for nothing.

    Raises:
        BadVideo: it asks for a turn by no right angle.
    """
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return Orientation()
    a, b, _, c, d = struct.unpack("=9i", bytes(matrix)[:36])[:5]
    across, down = math.hypot(a, c), math.hypot(b, d)
    if not across or not down:
        return Orientation()
    mirrored = a * d - b * c < 0
    sign = -1 if mirrored else 1
    degrees = -math.degrees(math.atan2(sign * b / down, sign * a / across))
    quarters = round(degrees / 90)
    if abs(degrees - 90 * quarters) > 1:
        raise BadVideo(f"asks to be turned by {degrees:.0f} degrees, which is no right angle; encode it upright")
    return Orientation(quarters % 4, mirrored)


def pixel_aspect(stream: av.VideoStream) -> Fraction:
    """How wide a stored pixel is to be shown, as a multiple of its height; 1 where nothing is said."""
    said = stream.sample_aspect_ratio
    return Fraction(said) if said and said > 0 else Fraction(1)


def display_size(frame: av.VideoFrame, aspect: Fraction) -> tuple[int, int]:
    """Height and width of a frame as shown; pixels that are not square change its stored width."""
    return orientation_of(frame).swap(frame.height, max(1, round(frame.width * aspect)))


def has_alpha(frame: av.VideoFrame) -> bool:
    """Whether a frame says of each pixel how transparent it is."""
    return any(component.is_alpha for component in frame.format.components)


class Scaler:
    """Scales the frames of one clip so that they just cover a size, and makes them upright; see `media.read_frames`.

    Args:
        shown: height and width that frames are shown in.
    """

    def __init__(self, shown: tuple[int, int], height: int, width: int, channels: int):
        self._size, self._channels = cover(shown, height, width), channels
        # One for all frames: the tables of its filters take longer to make than a frame to scale.
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """A frame as shown, uint8 (h, w, channels); transparency is black.

        Raises:
            BadVideo: its kind of pixels is none that swscale takes.
        """
        orientation = orientation_of(frame)
        height, width = orientation.swap(*self._size)
        alpha = has_alpha(frame)
        kind = "rgba" if alpha else "gray" if self._channels == 1 else "rgb24"
        try:
            pixels = self._reformatter.reformat(frame, width, height, kind, interpolation=_SCALING).to_ndarray()
        except (OSError, ValueError):  # all that FFmpeg says is that it is not supported
            raise BadVideo(f"has pixels of a kind that cannot be shown ({frame.format.name})") from None
        if alpha:
            pixels = (pixels[..., :3] * (pixels[..., 3:] / 255)).round().astype(np.uint8)
            if self._channels == 1:
                pixels = (pixels @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)
        return orientation.upright(pixels.reshape(height, width, self._channels))
