"""Whether clips of the digits show the words of their conditions.

The trained oracle reads the digit, fixed rules read colour and motion.
"""

from collections.abc import Mapping

import torch

from fastvgan.data.digits import COLOURS, MOTIONS
from fastvgan.metrics.oracle import Reading
from fastvgan.metrics.oracle.rules import read_colour, read_motion

CHANCE = {"digit": 1 / 10, "colour": 1 / len(COLOURS), "motion": 1 / len(MOTIONS)}
_SHUFFLES = 10


def read_words(video: torch.Tensor, reading: Reading) -> dict[str, torch.Tensor]:
    """Read digit, colour and motion of clips.

    Args:
        video: uint8 (N, T, H, W, C).
        reading: the oracle's reading of the same clips.

    Returns:
        int64 (N,) by "digit", "colour" (colour clips only) and "motion": indices into 0 to 9, `COLOURS` and `MOTIONS`;
        -1 for a motion without a name.
    """
    clips = video.numpy()
    motions = {name: i for i, name in enumerate(MOTIONS)}
    words = {"digit": reading.digits}
    if video.shape[-1] == 3:
        colours = list(COLOURS)
        words["colour"] = torch.tensor([colours.index(read_colour(clip)) for clip in clips])
    words["motion"] = torch.tensor([motions.get(read_motion(clip), -1) for clip in clips])
    return words


def match(shown: Mapping[str, torch.Tensor], asked: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Compare shown with requested words.

    Args:
        shown: int64 (N,) by word, as `read_words` returns them.
        asked: int64 (N,) by word, for the words that the condition names.

    Returns:
        The share of clips that are right in each requested word, and in all of them as "joint".
    """
    right = {name: shown[name] == words for name, words in asked.items()}
    if not right:
        return {}
    rates = {name: part.double().mean().item() for name, part in right.items()}
    return rates | {"joint": torch.stack(list(right.values())).all(0).double().mean().item()}


def match_shuffled(shown: Mapping[str, torch.Tensor], asked: Mapping[str, torch.Tensor], seed: int) -> dict[str, float]:
    """Return `match` of words (N,) with captions shuffled among clips, the mean of ten shuffles: the chance level."""
    import numpy as np  # late: the plain install lacks it

    rng = np.random.default_rng([seed, 3])
    shuffles = []
    for _ in range(_SHUFFLES):
        order = torch.from_numpy(rng.permutation(len(next(iter(asked.values())))))
        shuffles.append(match(shown, {name: words[order] for name, words in asked.items()}))
    return {name: sum(rates[name] for rates in shuffles) / _SHUFFLES for name in shuffles[0]}
