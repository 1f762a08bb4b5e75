"""The split of each clip's frames into a part for training and a later one for tests."""

from collections.abc import Sequence
from typing import NamedTuple

from fastvgan.data.clips import Item
from fastvgan.data.sampling import Cut
from fastvgan.errors import UserError


class Split(NamedTuple):
    """Clips for training and for tests, which have no frame in common, and a remark on what was not split, if any."""

    train: list[Item]
    test: list[Item]
    remarks: list[str]


def split_frames(items: Sequence[Item], cut: Cut, share: float) -> Split:
    """Keep the last frames of each clip for tests.

    Few long clips cannot be split otherwise: each may be the only one of its caption. A clip that is too short for one
    sample in each part is used for training as a whole.

    Args:
        items: The clips.
        cut: The length of samples, and their smallest stride.
        share: The share of a clip's frames, in (0, 1), that are kept for tests, with at least one sample in each part.

    Raises:
        UserError: Every clip is too short.
    """
    needed = (cut.frames - 1) * cut.stride + 1
    train, test, whole = [], [], []
    for item in items:
        frames = item.found.frames
        if frames < 2 * needed:
            train.append(item)
            whole.append(item)
            continue
        kept = min(max(needed, round(share * frames)), frames - needed)
        train.append(item._replace(shown=range(frames - kept)))
        test.append(item._replace(shown=range(frames - kept, frames)))
    if not test:
        raise UserError(
            f"--test-share {share}: no clip has the {2 * needed} frames that a training and a test sample need; use "
            "fewer --frames, a smaller --stride or --test-share 0"
        )
    remarks = []
    if whole:
        remarks = [
            f"{len(whole)} of {len(items)} clips are too short to be split, such as {whole[0].name}; they are used for "
            "training only"
        ]
    return Split(train, test, remarks)
