"""Loading clips from files: our decoders against torch's DataLoader over PyAV, as tutorials write it."""

import itertools
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from support.variants import TINY, describe, device, time_call

from fastvgan.data.clips import ClipSource, items_from_folder, items_from_manifest
from fastvgan.data.folders.layouts import Layout
from fastvgan.data.folders.manifest import read_manifest
from fastvgan.data.preparation import PrepareConfig, prepare
from fastvgan.data.sampling import Cut
from fastvgan.files.video import encode

# Frames per clip, its height and width, clips per batch, batches per round.
FRAMES, SIZE, BATCH, BATCHES = (8, 112, 4, 2) if TINY else (16, 112, 16, 4)
FILES, LENGTH, HEIGHT, WIDTH = (2, 36, 240, 320) if TINY else (8, 120, 240, 320)
ACROSS = round(SIZE * WIDTH / HEIGHT)  # the width of a frame that is scaled to the clip's height


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


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One folder of files per codec: a drifting texture with noise, about as hard to decode as real video."""
    folder = tmp_path_factory.mktemp("loader")
    rng = np.random.default_rng(0)
    for codec, gop in (("vp9", 12), ("h264", None)):
        (folder / codec).mkdir()
        for i in range(FILES):
            texture = rng.integers(0, 256, (12, 16, 3), np.uint8).repeat(40, 0).repeat(40, 1)
            noise = rng.integers(-12, 13, (4, HEIGHT, WIDTH, 3))
            frames = (
                np.clip(np.roll(texture, (t, 2 * t), (0, 1))[:HEIGHT, :WIDTH] + noise[t % 4], 0, 255).astype(np.uint8)
                for t in range(LENGTH)
            )
            encode(folder / codec / f"{i:02d}{'.webm' if codec == 'vp9' else '.mp4'}", frames, 24, codec, gop)
    settings = PrepareConfig(to="shards", height=SIZE, width=SIZE, keep_free=0)
    prepare(folder / "vp9", folder / "shards", settings)
    yield folder
    shutil.rmtree(folder)


def ours(files, codec, decoder, workers):
    cut = Cut(FRAMES, SIZE, SIZE)
    if decoder == "shards":
        items, _ = items_from_manifest(read_manifest(str(files / "shards" / "manifest.jsonl")))
    else:
        items, _ = items_from_folder(files / codec, Layout())
    return items, ClipSource(items, cut, decoder=decoder, device=device(), workers=workers)


def check(files, codec, decoder):
    """Check our clips against the usual dataset's of the same frames, apart from differences in scaling."""
    items, source = ours(files, codec, decoder, 1)
    batches = source.batches(8, seed=0)
    video = next(batches).video.cpu()
    batches.close()
    for number in range(8):
        draw = source.sampler.draw(0, number)
        name = Path(items[draw.clip].name).name
        usual = UsualDataset([]).read(
            files / codec / name, draw.indices[0], draw.offsets((SIZE, ACROSS), SIZE, SIZE)[1]
        )
        off = (video[number].float() - usual.float()).abs().mean()
        # The next frame is off by more than twice this: frames drift by two pixels over edges.
        assert off < 3, f"{name} from frame {draw.indices[0]}: off by {off:.1f} levels in the mean"


VARIANTS = [("vp9", "pyav"), ("vp9", "dali"), ("vp9", "shards"), ("h264", "pyav")]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("codec", "decoder"), VARIANTS, ids=[f"{codec}-{decoder}" for codec, decoder in VARIANTS])
@pytest.mark.parametrize("variant", ["stock", "ours"])
def test_loader(benchmark, files, codec, decoder, workers, variant):
    if decoder == "dali":
        pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install '.[dali]'")
    source = f"{WIDTH}x{HEIGHT} {codec}" if decoder != "shards" else f"decoded {codec}"
    many = f"{workers} worker{'s' if workers > 1 else ''}"
    group = f"loading {FRAMES}x{SIZE}x{SIZE} clips of {source} by {decoder}, {many}"
    clips = BATCH * BATCHES
    if variant == "ours":
        check(files, codec, decoder)
        batches = ours(files, codec, decoder, workers)[1].batches(BATCH, seed=1)
    elif decoder == "shards":  # compare with our own decoding, which shards save
        batches = ours(files, codec, "pyav", workers)[1].batches(BATCH, seed=1)
    else:
        paths = sorted((files / codec).iterdir())
        batches = iter(DataLoader(UsualDataset(paths), BATCH, shuffle=True, num_workers=workers))
    name = f"ours-{decoder}" if variant == "ours" else "pyav" if decoder == "shards" else "dataloader"
    describe(benchmark, group, name, "uint8", videos=clips)
    # Time several batches at once: with two workers, they arrive in pairs.
    time_call(benchmark, lambda: list(itertools.islice(batches, BATCHES)), seconds=6)
    if hasattr(batches, "close"):
        batches.close()
