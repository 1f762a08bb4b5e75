"""Animated WebP and PNG files and TIFF files of several pages are clips, each frame as FFmpeg or numpy has it."""

import av
import numpy as np
import pytest
from make_videos import make_numbered, number_of
from PIL import Image

from fastvgan.data.clips import ClipSource, items_from_manifest
from fastvgan.data.folders.layouts import Layout, scan
from fastvgan.data.folders.manifest import read_manifest
from fastvgan.data.folders.survey import examine
from fastvgan.data.media.animations import is_animation
from fastvgan.data.media.frames import probe, read_frames, walk
from fastvgan.data.media.types import BadVideo, Media
from fastvgan.data.preparation import PrepareConfig, prepare
from fastvgan.data.sampling import Cut

KINDS = {
    "webp": {"lossless": True},
    "png": {},
    "apng": {"format": "PNG"},
    "tif": {"compression": "tiff_lzw"},
    "tiff": {},
}


def animation(path, frames, lasts=100, **options):
    """Frames (T, H, W, 3) or (T, H, W, 4) in one file."""
    pictures = [Image.fromarray(frame) for frame in frames]
    times = {} if path.suffix.startswith(".tif") else {"duration": lasts}
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], **times, **options)
    return Media("animation", path)


@pytest.mark.parametrize("suffix", KINDS)
def test_frames_are_exact(tmp_path, suffix):
    frames = make_numbered(30)
    media = animation(tmp_path / f"x.{suffix}", frames, **KINDS[suffix])
    found = probe(media)
    codec = {"webp": "webp", "png": "apng", "apng": "apng"}.get(suffix, "tiff")
    assert found[:6] == (30, 48, 64, codec, None if codec == "tiff" else 10.0, True)
    for indices in ([0], [3, 7, 29, 29], [29]):
        assert np.array_equal(read_frames(media, found, indices, 48, 64, 3), frames[indices])
    times, walked = zip(*walk(media, 48, 64, 3), strict=True)
    assert np.array_equal(walked, frames)
    assert times == (None,) * 30 if codec == "tiff" else np.allclose(times, np.arange(30) / 10)
    assert read_frames(media, found, [4], 24, 32, 1).shape == (1, 24, 32, 1)


@pytest.mark.parametrize(
    ("lasts", "known"), [([100] * 5 + [0], 6), ([100, 100, 0, 100, 100, 100], 3), ([0] + [100] * 5, 0), ([0] * 6, 0)]
)
def test_a_frames_time_is_known_until_a_duration_is_missing(tmp_path, lasts, known):
    frames = make_numbered(6)
    media = animation(tmp_path / "x.webp", frames, lasts, lossless=True)
    times, walked = zip(*walk(media, 48, 64, 3), strict=True)
    assert np.array_equal(walked, frames)
    assert times == tuple(i / 10 if i < known else None for i in range(6))
    made = prepare(tmp_path, tmp_path / "out", PrepareConfig(to="shards", height=48, width=64, fps=20))
    (record,) = made.records
    items, _ = items_from_manifest(read_manifest(str(tmp_path / "out" / "manifest.jsonl")))
    clips = ClipSource(items, Cut(record.frames, 48, 64), workers=0)
    numbers = [number_of(frame) for frame in next(clips.batches(1, 0)).video[0].numpy()]
    assert numbers == sorted(numbers) and set(numbers) == set(range(6))


def test_partial_frames_and_transparency_are_drawn_as_ffmpeg_does(tmp_path):
    """Most frames of real files are small patches over the last one, some of them see-through."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 255, (32, 40, 3), np.uint8)
    pictures = []
    for t in range(8):
        base = base.copy()
        base[t : t + 6, 2 * t : 2 * t + 7] = rng.integers(0, 255, 3)
        pictures.append(base)
    media = animation(tmp_path / "x.png", np.stack(pictures), disposal=0, blend=1)
    with av.open(str(media.path)) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert np.array_equal(read_frames(media, probe(media), list(range(8)), 32, 40, 3), expected)
    clear = np.zeros((3, 32, 40, 4), np.uint8)
    clear[:, 8:16, :, 0], clear[:, 8:16, :, 3] = np.array([200, 210, 220])[:, None, None], 255
    clear[:, 16:, :, 1] = 255  # of no opacity: black
    for suffix in ("png", "webp"):
        media = animation(tmp_path / f"clear.{suffix}", clear, 50)
        seen = read_frames(media, probe(media), [1], 32, 40, 3)[0].astype(int)
        assert np.abs(seen[10, 10] - (210, 0, 0)).max() <= 4 and seen[20:].max() <= 4


def test_the_picture_for_programs_without_animation_is_no_frame(tmp_path):
    frames = make_numbered(6)
    media = animation(tmp_path / "x.png", frames, default_image=True)
    assert probe(media).frames == 5
    assert [number_of(frame) for _, frame in walk(media, 48, 64, 3)] == [1, 2, 3, 4, 5]


def test_previews_in_a_tiff_are_no_pages(tmp_path):
    from PIL import TiffImagePlugin

    with TiffImagePlugin.AppendingTiffWriter(str(tmp_path / "x.tif"), True) as file:
        for number, side in enumerate((32, 8)):
            tags = TiffImagePlugin.ImageFileDirectory_v2()
            tags[254] = number  # the second is a reduced version of the first
            Image.new("RGB", (side, side)).save(file, format="TIFF", tiffinfo=tags)
            file.newFrame()
    assert Image.open(tmp_path / "x.tif").n_frames == 2
    assert not is_animation(tmp_path / "x.tif")


def test_frames_of_different_length_have_times(tmp_path):
    media = animation(tmp_path / "x.webp", make_numbered(4), [40, 200, 40, 40], lossless=True)
    found = probe(media)
    assert not found.steady and found.fps == pytest.approx(3 / 0.28, abs=0.001)
    assert np.allclose([time for time, _ in walk(media, 48, 64, 3)], [0, 0.04, 0.24, 0.28])


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_one_that_was_cut_short_is_named(tmp_path, suffix, share):
    frames = np.random.default_rng(0).integers(0, 255, (9, 24, 24, 3), np.uint8)
    media = animation(tmp_path / f"x.{suffix}", frames, **KINDS[suffix])
    data = media.path.read_bytes()
    media.path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(BadVideo, match="damaged"):
        probe(media)


def test_a_folder_of_them_is_a_clip_each(tmp_path):
    """In the folder given and in one below it; a still picture beside them is named, and captions are found."""
    for name in ("a.webp", "b.png", "c.tif", "below/d.webp", "below/e.apng"):
        kind = KINDS[name.rsplit(".")[-1]]
        animation(tmp_path / "src" / name, make_numbered(5), **kind)
    Image.new("RGB", (20, 30)).save(tmp_path / "src" / "still.png")
    (tmp_path / "src" / "a.txt").write_text("the first")
    entries, rejected, remarks = scan(tmp_path / "src", Layout())
    assert {entry.name: entry.media.kind for entry in entries} == dict.fromkeys(
        ("a.webp", "b.png", "c.tif", "below/d.webp", "below/e.apng"), "animation"
    )
    assert [(item.name, item.reason) for item in rejected] == [
        ("still.png", "is a single picture beside animated ones")
    ]
    assert remarks == ["found 5 animated pictures"]
    assert [entry.captions for entry in entries if entry.name == "a.webp"] == [("the first",)]
    assert all(examine(entry).probe.frames == 5 for entry in entries)
    assert [entry.name for entry in scan(tmp_path / "src", Layout("videos"))[0]] == [entry.name for entry in entries]
    for to, size in (("manifest", None), ("clips", None), ("shards", 32)):
        made = prepare(tmp_path / "src", tmp_path / to, PrepareConfig(to=to, height=size, width=size))
        assert [record.frames for record in made.records] == [5] * 5, to
