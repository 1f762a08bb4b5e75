"""Every file that PyAV writes is taken whole, in order, and shown as FFmpeg's command line shows it."""

import os
import random

import numpy as np
from corpus import CannotWrite, Case, cases, decode_by_ffmpeg, write

from fastvgan.data.media.frames import probe, read_frames, walk
from fastvgan.data.media.types import BadVideo, Media

SHARE = 0.05  # of the cases; all of them by FASTVGAN_TEST_CORPUS=all, 31,000 in some three minutes
_NEAR = 10  # of 255, in the mean of a block


def sample() -> list[Case]:
    every = list(cases())
    if os.environ.get("FASTVGAN_TEST_CORPUS") == "all":
        return every
    return random.Random(19).sample(every, int(SHARE * len(every)))


def fault(path, case: Case) -> str | None:
    """What is wrong with how a file is read, None where nothing is."""
    expected = decode_by_ffmpeg(path, case)
    media = Media("video", path)
    try:
        found = probe(media)
    except BadVideo as error:
        return f"is rejected: {error}"
    if (found.frames, found.height, found.width) != expected.shape[:3]:
        return f"has {(found.frames, found.height, found.width)}, not {expected.shape[:3]}"
    rng = random.Random(str(case))
    for indices in ([0], sorted(rng.sample(range(found.frames), min(3, found.frames))), [found.frames - 1]):
        seen = read_frames(media, found, indices, found.height, found.width, 3)
        if (off := _off(seen, expected[indices])) > _NEAR:
            return f"shows frames {indices} otherwise, by {off} of 255"
    walked = np.stack([frame for _, frame in walk(media, found.height, found.width, 3, found)])
    off = _off(walked, expected)
    return f"walks otherwise, by {off} of 255" if off > _NEAR else None


def _off(seen: np.ndarray, expected: np.ndarray) -> float:
    """How far blocks of 8x8 are apart: FFmpeg's filters heed where colours lie between pixels, swscale does not."""
    apart = seen.astype(int) - expected
    height, width = (size // 8 * 8 for size in apart.shape[1:3])
    blocks = apart[:, :height, :width].reshape(len(apart), height // 8, 8, width // 8, 8, 3)
    return float(np.abs(blocks.mean((2, 4))).max())


def test_every_file_is_shown_as_ffmpeg_shows_it(tmp_path):
    faults, read = {}, []
    for case in sample():
        try:
            path = write(tmp_path, case)
            wrong = fault(path, case)
        except CannotWrite:
            continue
        read.append(case)
        if wrong:
            faults[str(case)] = wrong
    assert not faults, "\n".join(f"{case}: {wrong}" for case, wrong in faults.items())
    assert len(read) > 50 and len({case.container for case in read}) > 12 and len({case.codec for case in read}) > 20
