"""Clips that are pictures in order: right frames, right pixels, and nothing that fills the memory."""

import io
import os
import resource
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_videos import make_numbered, number_of
from PIL import Image

from fastvgan.data.media.frames import probe, read_frames, walk
from fastvgan.data.media.types import BadVideo, Media


def save(folder, frames, names, **options):
    folder.mkdir(parents=True, exist_ok=True)
    for frame, name in zip(frames, names, strict=True):
        Image.fromarray(frame).save(folder / name, **options)
    return Media("frames", folder)


def pack(path, frames, member=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for i, frame in enumerate(frames):
            data = io.BytesIO()
            Image.fromarray(frame).save(data, "PNG")
            file.writestr(f"{member}/{i}.png" if member else f"{i}.png", data.getvalue())
    return Media("zip", path, member)


def strip(path, frames, across=True):
    Image.fromarray(np.concatenate(list(frames), axis=1 if across else 0)).save(path)
    return Media("strip", path)


@pytest.mark.parametrize("kind", ["frames", "zip", "zip folder", "across", "down"])
def test_frames_are_exact_and_in_order(tmp_path, kind):
    frames = make_numbered(13, 48, 48)
    media = {
        "frames": lambda: save(tmp_path / "f", frames, [f"frame{i}.png" for i in range(13)]),  # 10 comes after 9
        "zip": lambda: pack(tmp_path / "x.zip", frames),
        "zip folder": lambda: pack(tmp_path / "x.zip", frames, "a/b"),
        "across": lambda: strip(tmp_path / "x.png", frames),
        "down": lambda: strip(tmp_path / "x.png", frames, across=False),
    }[kind]()
    found = probe(media)
    assert found[:6] == (13, 48, 48, "png", None, True)
    indices = [2, 5, 12, 12]
    assert np.array_equal(read_frames(media, found, indices, 48, 48, 3), frames[indices])
    walked = list(walk(media, 48, 48, 3))
    assert [time for time, _ in walked] == [None] * 13
    assert [number_of(frame) for _, frame in walked] == list(range(13))
    grey = read_frames(media, found, [3], 48, 48, 1)
    assert grey.shape == (1, 48, 48, 1)
    np.testing.assert_allclose(grey[0, ..., 0], frames[3] @ [0.299, 0.587, 0.114], atol=1)


@given(factor=st.integers(1, 5), height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_frames_are_scaled_by_the_mean_over_areas(tmp_path_factory, factor, height, width, seed):
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (2, height * factor, width * factor, 3), np.uint8)
    media = save(tmp_path_factory.mktemp("f"), frames, ["0.png", "1.png"])
    scaled = read_frames(media, probe(media), [0, 1], height, width, 3)
    expected = frames.reshape(2, height, factor, width, factor, 3).mean((2, 4))
    np.testing.assert_allclose(scaled, expected, atol=1)


def test_enlarged_frames_are_smooth(tmp_path):
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    frames[:, :, 2:] = 240
    media = save(tmp_path / "f", frames, ["0.png", "1.png"])
    row = read_frames(media, probe(media), [0], 32, 32, 1)[0, 16, :, 0].astype(int)
    assert row[0] == 0 and row[-1] == 240 and np.abs(np.diff(row)).max() < 60


def test_every_kind_of_pixel_is_shown(tmp_path):
    right = np.full((8, 8), 200, np.uint8)
    right[:4] = 40
    rgb = Image.fromarray(np.stack([right] * 3, -1))
    clear = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    clear.paste(rgb, (0, 0), Image.new("L", (8, 8), 255))
    kinds = {"0.png": Image.fromarray(right), "1.png": rgb.quantize(8), "2.png": clear, "3.jpg": rgb.convert("CMYK"),
             "4.png": Image.fromarray(right.astype(np.uint16) * 257)}  # fmt: skip
    for name, image in kinds.items():
        image.save(tmp_path / name)
    media = Media("frames", tmp_path)
    video = read_frames(media, probe(media), list(range(5)), 8, 8, 3).astype(int)
    for frame in video:
        assert np.abs(frame - right[..., None].astype(int)).max() <= 3
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "2.png")
    assert read_frames(media, probe(media), [2], 8, 8, 3).max() == 0  # what is transparent shows black


def test_orientation_of_photographs_is_honoured(tmp_path):
    frames = np.zeros((2, 16, 32, 3), np.uint8)
    frames[:, :8, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    media = save(tmp_path / "f", frames, ["0.jpg", "1.jpg"], exif=exif, quality=95)
    found = probe(media)
    assert (found.height, found.width) == (32, 16)
    video = read_frames(media, found, [0], 32, 16, 1)[0, ..., 0]
    assert np.abs(video.astype(int) - np.rot90(frames[0, ..., 0], -1)).mean() < 5


def test_strips_of_a_given_number_of_frames(tmp_path):
    frames = make_numbered(5, 48, 64)
    media = strip(tmp_path / "x.png", frames)
    with pytest.raises(BadVideo, match="320x48, which cannot be divided into square frames; --strip-frames"):
        probe(media)
    media = Media("strip", tmp_path / "x.png", strip_frames=5)
    found = probe(media)
    assert (found.frames, found.height, found.width) == (5, 48, 64)
    assert np.array_equal(read_frames(media, found, [1, 4], 48, 64, 3), frames[[1, 4]])


def truncate(folder):
    data = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(data[: len(data) // 2])


def flip_bytes(folder):
    data = bytearray((folder / "2.png").read_bytes())
    data[-30] ^= 255
    (folder / "2.png").write_bytes(data)


def huge(folder):
    """A picture whose header, with a right checksum, claims 60,000 pixels a side."""
    data = bytearray((folder / "2.png").read_bytes())
    data[16:24] = (60000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (folder / "2.png").write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (truncate, r"damaged at frame 2 \(2.png\)"),
        (flip_bytes, r"damaged at frame 2 \(2.png\)"),
        (huge, "60000x60000|more pixels"),
        (lambda f: (f / "2.png").write_bytes(b""), r"frame 2 \(2.png\) is empty"),
        (lambda f: (f / "2.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "damaged at frame 2"),
        (lambda f: Image.new("RGB", (9, 8)).save(f / "2.png"), "changes its size at frame 2, from 8x8 to 9x8"),
        (lambda f: [p.unlink() for p in f.iterdir()], "holds no picture"),
        (lambda f: [p.unlink() for p in f.iterdir()] + [f.rmdir()], "cannot be read"),
    ],
)
def test_bad_pictures_say_why(tmp_path, spoil, reason):
    frames = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    media = save(tmp_path / "f", frames, [f"{i}.png" for i in range(4)])
    spoil(tmp_path / "f")
    with pytest.raises(BadVideo, match=reason) as raised:
        probe(media)
    assert raised.value.lasts == (reason != "cannot be read")


@pytest.mark.parametrize("kind", ["frames", "zip", "strip"])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError()])
def test_damage_lasts_and_errors_of_reading_do_not(tmp_path, monkeypatch, kind, error):
    frames = make_numbered(2, 48, 48)
    media = {
        "frames": lambda: save(tmp_path / "f", frames, ["0.jpg", "1.jpg"]),
        "zip": lambda: pack(tmp_path / "x.zip", frames),
        "strip": lambda: strip(tmp_path / "x.jpg", frames),
    }[kind]()

    def fails(*arguments, **options):
        raise error

    broken = ["zips.member_bytes" if kind == "zip" else "_file_bytes"]
    broken += ["Image.open", "ImageOps.exif_transpose"] if isinstance(error, MemoryError) else []
    for name in broken:
        with monkeypatch.context() as patched:
            patched.setattr(f"fastvgan.data.media.pictures.{name}", fails)
            with pytest.raises(BadVideo, match="cannot be read.*(Input/output error|memory ran out)") as raised:
                probe(media)
        assert not raised.value.lasts
    if kind != "zip":
        path = media.path / "1.jpg" if kind == "frames" else media.path
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(BadVideo, match="(?i)truncated") as raised:
            probe(media)
        assert raised.value.lasts


def test_zip_bombs_are_refused_without_being_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as file, file.open("0.png", "w") as member:
        for _ in range(300):
            member.write(bytes(2**20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadVideo, match="300 MiB large"):
        probe(Media("zip", tmp_path / "x.zip"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB
    # One that lies about its size gives no more than it claims.
    data = (tmp_path / "x.zip").read_bytes()
    size = (300 * 2**20).to_bytes(4, "little")
    assert data.count(size) >= 1
    (tmp_path / "y.zip").write_bytes(data.replace(size, (1000).to_bytes(4, "little")))
    with pytest.raises(BadVideo, match="damaged at frame 0"):
        probe(Media("zip", tmp_path / "y.zip"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_broken_zips_say_why(tmp_path):
    whole = pack(tmp_path / "x.zip", make_numbered(4))
    data = (tmp_path / "x.zip").read_bytes()
    for name, content, reason in [("cut", data[:-40], "not a zip file, or is truncated"), ("empty", b"", "is empty")]:
        (tmp_path / f"{name}.zip").write_bytes(content)
        with pytest.raises(BadVideo, match=reason):
            probe(Media("zip", tmp_path / f"{name}.zip"))
    with pytest.raises(BadVideo, match="cannot be read"):
        probe(Media("zip", tmp_path / "none.zip"))
    assert probe(whole).frames == 4
    encrypted = bytearray(data)
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = encrypted.find(mark)
        while place >= 0:
            encrypted[place + offset] |= 1
            place = encrypted.find(mark, place + 4)
    (tmp_path / "e.zip").write_bytes(encrypted)
    with pytest.raises(BadVideo, match="encrypted"):
        probe(Media("zip", tmp_path / "e.zip"))


def test_a_clip_that_has_changed_is_bad(tmp_path):
    media = save(tmp_path / "f", make_numbered(4), [f"{i}.png" for i in range(4)])
    found = probe(media)
    os.unlink(tmp_path / "f" / "3.png")
    with pytest.raises(BadVideo, match="has changed"):
        read_frames(media, found, [0], 48, 64, 3)


@pytest.mark.parametrize("kind", ["frames", "strip", "animation"])
def test_pixels_that_cannot_be_shown_are_refused_when_a_clip_is_checked(tmp_path, kind):
    """Floating-point pictures, of which only the last one is in the folder."""
    grey = [Image.fromarray(np.full((16, 16), number, np.uint8)) for number in range(3)]
    wide = Image.new("F", (64, 16), 0.5)
    if kind == "frames":
        media = save(tmp_path / "f", [np.zeros((16, 16, 3), np.uint8)] * 2, ["0.tif", "1.tif"])
        wide.resize((16, 16)).save(tmp_path / "f" / "2.tif")
    elif kind == "strip":
        wide.save(tmp_path / "x.tif")
        media = Media("strip", tmp_path / "x.tif")
    else:
        pages = [one.convert("F") for one in grey]
        pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
        media = Media("animation", tmp_path / "x.tif")
    with pytest.raises(BadVideo, match=r"has pixels of a kind that cannot be shown \(F\)"):
        probe(media)
