"""Loading clips from files: our decoders against torch's DataLoader over PyAV, as tutorials write it."""

import itertools
import shutil

import pytest
from support.variants import describe, time_call
from support.videos import (
    BATCH,
    BATCHES,
    FRAMES,
    HEIGHT,
    MOST_DIFFERENT,
    SIZE,
    WIDTH,
    UsualDataset,
    largest_difference,
    open_ours,
    write_files,
)
from torch.utils.data import DataLoader


@pytest.fixture(scope="module")
def files(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader")
    chosen = {item.callspec.params["codec"] for item in request.session.items if item.path == request.path}
    write_files(folder, sorted(chosen | {"vp9"}))
    yield folder
    shutil.rmtree(folder)


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
        off = largest_difference(files, codec, decoder)
        assert off < MOST_DIFFERENT, f"off by {off:.1f} levels in the mean"
        batches = open_ours(files, codec, decoder, workers)[1].batches(BATCH, seed=1)
    elif decoder == "shards":  # compare with our own decoding, which shards save
        batches = open_ours(files, codec, "pyav", workers)[1].batches(BATCH, seed=1)
    else:
        paths = sorted((files / codec).iterdir())
        batches = iter(DataLoader(UsualDataset(paths), BATCH, shuffle=True, num_workers=workers))
    name = f"ours-{decoder}" if variant == "ours" else "pyav" if decoder == "shards" else "dataloader"
    describe(benchmark, group, name, "uint8", videos=clips)
    # Time several batches at once: with two workers, they arrive in pairs.
    time_call(benchmark, lambda: list(itertools.islice(batches, BATCHES)), seconds=6)
    if hasattr(batches, "close"):
        batches.close()
