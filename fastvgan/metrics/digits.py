"""Reads colour and motion off clips of captioned moving digits, without a trained network.

Both come from pixels by a fixed rule (checked on real clips in the tests), so that nothing learned stands between a
generated clip and the verdict on it.
"""

import math

import numpy as np

from fastvgan.data.digits import COLOURS, MOTIONS


def read_colour(video: np.ndarray) -> str:
    """The colour of the digit in a clip, uint8 (T, H, W, 3): the palette's colour nearest to its mean by angle."""
    pixels = video.reshape(-1, 3).astype(np.float64)
    mean = (pixels * pixels.sum(1, keepdims=True)).sum(0)
    palette = np.array(list(COLOURS.values()), dtype=np.float64)
    cosine = palette @ mean / (np.linalg.norm(palette, axis=1) * max(np.linalg.norm(mean), 1e-9))
    return list(COLOURS)[int(cosine.argmax())]


def read_motion(video: np.ndarray) -> str:
    """The motion of the digit in a clip, uint8 (T, H, W, C), or "none" where it is none that has a name.

    The centre of brightness is followed over time. A motion is along one axis where the other axis's spread is less
    than 0.4 of it; else it is diagonal where x and y go together (correlation beyond 0.7), and a circle where it goes
    at least halfway round the middle of its range, in one direction: a digit that goes to and fro on an arc does not.
    """
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
