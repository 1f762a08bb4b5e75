"""Files of video, and the two ways to load clips from them: torch's DataLoader over PyAV, and ours."""

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from support.variants import TINY, device
from torch.utils.data import Dataset

from fastvgan.data.clips import ClipSource, items_from_folder, items_from_manifest
from fastvgan.data.folders.layouts import Layout
from fastvgan.data.folders.manifest import read_manifest
from fastvgan.data.preparation import PrepareConfig, prepare
from fastvgan.data.sampling import Cut
from fastvgan.files.encoding import encode

# Frames per clip, its height and width, clips per batch, batches per round.
FRAMES, SIZE, BATCH, BATCHES = (8, 112, 4, 2) if TINY else (16, 112, 16, 4)
FILES, LENGTH, HEIGHT, WIDTH = (2, 36, 240, 320) if TINY else (8, 120, 240, 320)
ACROSS = round(SIZE * WIDTH / HEIGHT)  # the width of a frame that is scaled to the clip's height
MOST_DIFFERENT = 3.0  # levels of 255, in the mean over a clip
CODECS = {"vp9": 12, "h264": None}  # codec → frames from one key frame to the next


class UsualDataset(Dataset):
    """Random clips by PyAV as tutorials write them: seek, decode, to RGB, then scale and crop by torch."""

    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return 10**6

    def __getitem__(self, number):
        rng = np.random.default_rng(number)
        path = self.paths[rng.integers(len(self.paths))]
        return self.read(path, int(rng.integers(LENGTH - FRAMES + 1)), int(rng.integers(ACROSS - SIZE + 1)))

    def read(self, path, first, left):
        frames = []
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            second = first / stream.average_rate
            container.seek(int(second / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                if frame.time < float(second) - 1e-3:
                    continue
                frames.append(frame.to_ndarray(format="rgb24"))
                if len(frames) == FRAMES:
                    break
        video = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
        video = F.interpolate(video, (SIZE, ACROSS), mode="bilinear", antialias=True)
        return video[..., left : left + SIZE].permute(0, 2, 3, 1).contiguous()


def write_files(folder: Path, codecs: Sequence[str] = tuple(CODECS)) -> None:
    """Write one folder of files per codec: a drifting texture with noise, about as hard to decode as real video.

    The VP9 files are also prepared as shards.
    """
    rng = np.random.default_rng(0)
    for codec in codecs:
        (folder / codec).mkdir()
        for i in range(FILES):
            texture = rng.integers(0, 256, (12, 16, 3), np.uint8).repeat(40, 0).repeat(40, 1)
            noise = rng.integers(-12, 13, (4, HEIGHT, WIDTH, 3))
            frames = (
                np.clip(np.roll(texture, (t, 2 * t), (0, 1))[:HEIGHT, :WIDTH] + noise[t % 4], 0, 255).astype(np.uint8)
                for t in range(LENGTH)
            )
            encode(folder / codec / f"{i:02d}{'.webm' if codec == 'vp9' else '.mp4'}", frames, 24, codec, CODECS[codec])
    settings = PrepareConfig(to="shards", height=SIZE, width=SIZE, keep_free=0)
    prepare(folder / "vp9", folder / "shards", settings)


def open_ours(files: Path, codec: str, decoder: str, workers: int) -> tuple[list, ClipSource]:
    """Open our source of these files, and list its clips."""
    cut = Cut(FRAMES, SIZE, SIZE)
    if decoder == "shards":
        items, _ = items_from_manifest(read_manifest(str(files / "shards" / "manifest.jsonl")))
    else:
        items, _ = items_from_folder(files / codec, Layout())
    return items, ClipSource(items, cut, decoder=decoder, device=device(), workers=workers)


def largest_difference(files: Path, codec: str, decoder: str) -> float:
    """Compare our clips with the usual dataset's of the same frames; only the scaling differs.

    Returns:
        The mean difference in levels of 255, of the clip where it is largest. The next frame differs by more than 6:
        frames drift by two pixels over edges.
    """
    items, source = open_ours(files, codec, decoder, 1)
    found = 0.0
    batches = source.batches(8, seed=0)
    video = next(batches).video.cpu()
    batches.close()
    for number in range(8):
        draw = source.sampler.draw(0, number)
        name = Path(items[draw.clip].name).name
        usual = UsualDataset([]).read(
            files / codec / name, draw.indices[0], draw.offsets((SIZE, ACROSS), SIZE, SIZE)[1]
        )
        found = max(found, (video[number].float() - usual.float()).abs().mean().item())
    return found
