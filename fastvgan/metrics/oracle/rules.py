"""Rules that read colour and motion from the pixels of captioned moving digits.

Tests check the rules on real clips. The verdict on a clip does not depend on a trained network for these two.
"""

import math
from typing import TYPE_CHECKING

from fastvgan.data.digits import COLOURS, MOTIONS

if TYPE_CHECKING:
    import numpy as np


def read_colour(video: "np.ndarray") -> str:
    """Return the palette colour with the smallest angle to the mean colour of a clip, uint8 (T, H, W, 3)."""
    import numpy as np  # late: the plain install lacks it

    pixels = video.reshape(-1, 3).astype(np.float64)
    mean = (pixels * pixels.sum(1, keepdims=True)).sum(0)
    palette = np.array(list(COLOURS.values()), dtype=np.float64)
    cosine = palette @ mean / (np.linalg.norm(palette, axis=1) * max(np.linalg.norm(mean), 1e-9))
    return list(COLOURS)[int(cosine.argmax())]


def read_motion(video: "np.ndarray") -> str:
    """Return the motion of the digit in a clip, uint8 (T, H, W, C), or "none" for a motion without a name.

    The rule follows the centre of brightness over time. The motion is along one axis if the spread along the other is
    less than 0.4 times as large. Otherwise it is diagonal if x and y correlate by more than 0.7, and a circle if from
    the first to the last frame it turns by at least 180° about the middle of its range; a digit that swings back and
    forth along an arc does not.
    """
    import numpy as np  # late: the plain install lacks it

    light = video.astype(np.float64).sum(-1)
    light = np.maximum(light - 0.25 * light.max(), 0)  # keeps faint noise far from the digit out of the centre
    weight = light.sum((1, 2)) + 1e-9
    x = (light.sum(1) @ np.arange(light.shape[2])) / weight / light.shape[2]
    y = (light.sum(2) @ np.arange(light.shape[1])) / weight / light.shape[1]
    spread_x, spread_y = x.std(), y.std()
    if max(spread_x, spread_y) < 0.05:
        return "none"
    if spread_x < 0.4 * spread_y:
        return MOTIONS[0]
    if spread_y < 0.4 * spread_x:
        return MOTIONS[1]
    if abs(np.corrcoef(x, y)[0, 1]) > 0.7:
        return MOTIONS[2]
    angle = np.unwrap(np.arctan2(y - (y.max() + y.min()) / 2, x - (x.max() + x.min()) / 2))
    return MOTIONS[3] if abs(angle[-1] - angle[0]) >= math.pi else "none"
