"""Whether clips of the digits show what was asked for.

The digit is read by the trained oracle, colour and motion by fixed rules.
"""

from collections.abc import Mapping

import numpy as np
import torch

from fastvgan.data.digits import COLOURS, MOTIONS
from fastvgan.metrics.digits import read_colour, read_motion
from fastvgan.metrics.oracle import Reading

CHANCE = {"digit": 1 / 10, "colour": 1 / len(COLOURS), "motion": 1 / len(MOTIONS)}
_SHUFFLES = 10


def read_words(video: torch.Tensor, reading: Reading) -> dict[str, torch.Tensor]:
    """Digit, colour and motion that clips show, int64 (N,) each, indices into 0 to 9, `COLOURS` and `MOTIONS`.

    A motion of -1 is none that has a name. Grey clips have no colour.

    Args:
        video: uint8 (N, T, H, W, C). reading: the oracle's, of the same clips.
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
    """The share of clips right in each word that was asked for, and "joint", that of clips right in all of them."""
    right = {name: shown[name] == words for name, words in asked.items()}
    if not right:
        return {}
    rates = {name: part.double().mean().item() for name, part in right.items()}
    return rates | {"joint": torch.stack(list(right.values())).all(0).double().mean().item()}


def shuffled_match(shown: Mapping[str, torch.Tensor], asked: Mapping[str, torch.Tensor], seed: int) -> dict[str, float]:
    """`match` with captions shuffled among the clips, the mean over ten shuffles: what chance gives."""
    rng = np.random.default_rng([seed, 3])
    deals = []
    for _ in range(_SHUFFLES):
        order = torch.from_numpy(rng.permutation(len(next(iter(asked.values())))))
        deals.append(match(shown, {name: words[order] for name, words in asked.items()}))
    return {name: sum(deal[name] for deal in deals) / _SHUFFLES for name in deals[0]}
