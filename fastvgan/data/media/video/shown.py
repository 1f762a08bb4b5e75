"""Display of a video's stored frames: rotation, mirroring, and pixels that may not be square."""

import math
import struct
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import Interpolation, VideoReformatter

from fastvgan.data.media.types import BadVideo, cover

# Area averaging; without FULL_CHR_H_INT an even width halves the resolution of colours once more.
_SCALING = Interpolation.AREA | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND


class Orientation(NamedTuple):
    """Conversion of a stored frame to an upright one: mirroring from left to right if `mirrored`, then rotation.

    quarters: Counter-clockwise right angles to rotate by, 0 to 3.
    """

    quarters: int = 0
    mirrored: bool = False

    def upright(self, pixels: np.ndarray) -> np.ndarray:
        """Return an upright view of pixels (H, W, C)."""
        return np.rot90(pixels[:, ::-1] if self.mirrored else pixels, self.quarters)

    def swap(self, height: int, width: int) -> tuple[int, int]:
        """Convert height and width from stored to shown, or back."""
        return (width, height) if self.quarters % 2 else (height, width)


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """Read the orientation that a frame's display matrix asks for.

    The matrix sends a stored point (x, y) to (ax + cy, bx + dy), y downwards (ISO/IEC 14496-12, 6.2.2). FFmpeg's
    command line reads it the same way: the lengths of its rows do not count, and one of zeros asks for nothing.

    Raises:
        BadVideo: The rotation is not a multiple of a right angle.
    """
    side_data: Any = frame.side_data  # PyAV's annotations lack a mapping's default
    matrix = side_data.get(Type.DISPLAYMATRIX)
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
        raise BadVideo(f"asks to be turned by {degrees:.0f} degrees, which is not a right angle; encode it upright")
    return Orientation(quarters % 4, mirrored)


def pixel_aspect(stream: av.VideoStream) -> Fraction:
    """Return the aspect ratio, width / height, of a shown pixel; 1 if the file does not declare it."""
    said = stream.sample_aspect_ratio
    return Fraction(said) if said and said > 0 else Fraction(1)


def display_size(frame: av.VideoFrame, aspect: Fraction) -> tuple[int, int]:
    """Compute height and width of a frame as shown; non-square pixels change its stored width."""
    return orientation_of(frame).swap(frame.height, max(1, round(frame.width * aspect)))


def has_alpha(frame: av.VideoFrame) -> bool:
    """Return whether a frame has an alpha channel."""
    return any(component.is_alpha for component in frame.format.components)


class Scaler:
    """Scales the frames of one clip to just cover a size, and makes them upright; see `frames.read_frames`.

    Args:
        shown: Height and width of the frames as shown.
        height: Height to cover.
        width: Width to cover.
        channels: 1 for grey, 3 for RGB.
    """

    def __init__(self, shown: tuple[int, int], height: int, width: int, channels: int):
        self._size, self._channels = cover(shown, height, width), channels
        # Shared by all frames: building its filter tables takes longer than scaling a frame.
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """Scale a frame to uint8 (H, W, C), upright; transparent pixels become black.

        Raises:
            BadVideo: swscale does not support the pixel format.
        """
        orientation = orientation_of(frame)
        height, width = orientation.swap(*self._size)
        alpha = has_alpha(frame)
        kind = "rgba" if alpha else "gray" if self._channels == 1 else "rgb24"
        try:
            pixels = self._reformatter.reformat(frame, width, height, kind, interpolation=_SCALING).to_ndarray()
        except (OSError, ValueError):  # FFmpeg only reports that it is not supported
            raise BadVideo(f"has pixels of a kind that cannot be shown ({frame.format.name})") from None
        if alpha:
            pixels = (pixels[..., :3] * (pixels[..., 3:] / 255)).round().astype(np.uint8)
            if self._channels == 1:
                pixels = (pixels @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)
        return orientation.upright(pixels.reshape(height, width, self._channels))
