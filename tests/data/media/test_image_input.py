"""Pictures that a caller gives are read as training reads its own, in whichever form they come."""

import logging
import os
import shutil
import subprocess
import sys
import zlib

import av
import numpy as np
import pytest
import torch
from commands import ROOT
from make_videos import encode, make_numbered
from PIL import Image

from fastvgan.data.clips import ClipSource, items_from_folder
from fastvgan.data.folders.layouts import Layout
from fastvgan.data.media import image_input
from fastvgan.data.media.image_input import fit_image
from fastvgan.data.sampling import Cut
from fastvgan.errors import UserError

HEIGHT, WIDTH = 37, 53  # scaled to cover 16x16 it is 23 wide, so that an odd number of columns is cut off
_RNG = np.random.default_rng(0)
RGB = np.repeat(np.repeat(_RNG.integers(0, 256, (10, 14, 3), np.uint8), 4, 0), 4, 1)[:HEIGHT, :WIDTH]
ALPHA = _RNG.integers(0, 256, (HEIGHT, WIDTH, 1), np.uint8)
RGBA = np.concatenate([RGB, ALPHA], -1)
DEEP = _RNG.integers(0, 2**16, (HEIGHT, WIDTH, 4)).astype(np.uint16)
# By EXIF orientation, what a viewer does to the stored pixels (TIFF 6.0, section "Orientation").
TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}


def make_exif(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def deep(path, array, pixel_format):
    """Write 16-bit colours, which Pillow cannot, by FFmpeg."""
    frame = av.VideoFrame(array.shape[1], array.shape[0], pixel_format)
    rows = array.astype(">u2" if pixel_format.endswith("be") else "<u2").reshape(array.shape[0], -1).view(np.uint8)
    plane = np.frombuffer(frame.planes[0], np.uint8).reshape(array.shape[0], -1)
    plane[:, : rows.shape[1]] = rows
    encoder = av.CodecContext.create("png" if path.suffix == ".png" else "tiff", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = array.shape[1], array.shape[0], pixel_format, 1
    path.write_bytes(b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode()]))


def files(folder):
    """A picture of each kind, by its name."""
    folder.mkdir()
    rgb, grey = Image.fromarray(RGB), Image.fromarray(RGB[..., 0])
    palette = rgb.quantize(16)
    for name, image, options in [
        ("rgb.png", rgb, {}),
        ("rgb.bmp", rgb, {}),
        ("rgb.ppm", rgb, {}),
        ("rgb.tif", rgb, {}),
        ("rgb.webp", rgb, {"lossless": True}),
        ("rgb.jpg", rgb, {}),
        ("cmyk.jpg", rgb.convert("CMYK"), {}),
        ("grey.png", grey, {}),
        ("bits.png", grey.convert("1"), {}),
        ("rgba.png", Image.fromarray(RGBA), {}),
        ("rgba.webp", Image.fromarray(RGBA), {"lossless": True}),
        ("la.png", Image.fromarray(RGBA).convert("LA"), {}),
        ("clear_colour.png", rgb, {"transparency": tuple(map(int, RGB[0, 0]))}),
        ("palette.png", palette, {}),
        ("palette_clear.png", palette, {"transparency": 3}),
        ("palette_alpha.png", palette, {"transparency": bytes(range(0, 256, 16))}),
        ("deep_grey.png", Image.fromarray(DEEP[..., 0]), {}),
        ("deep_grey.tif", Image.fromarray(DEEP[..., 0]), {}),
        ("deep_clear.png", Image.fromarray(DEEP[..., 0]), {"transparency": int(DEEP[0, 0, 0])}),
        *((f"turned{number}.jpg", rgb, {"exif": make_exif(number)}) for number in TURNS),
        *((f"turned{number}.png", rgb, {"exif": make_exif(number)}) for number in TURNS),
        *((f"turned{number}.webp", rgb, {"exif": make_exif(number), "lossless": True}) for number in TURNS),
        *((f"turned{number}.tif", rgb, {"exif": make_exif(number)}) for number in TURNS),
    ]:
        image.save(folder / name, **options)
    deep(folder / "deep_rgb.png", DEEP[..., :3], "rgb48be")
    deep(folder / "deep_rgba.png", DEEP, "rgba64be")
    deep(folder / "deep_la.png", DEEP[..., :2], "ya16be")
    deep(folder / "deep_rgb.tif", DEEP[..., :3], "rgb48le")
    return {path.name: path for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return files(tmp_path_factory.mktemp("pictures") / "f")


@pytest.mark.parametrize("channels", [3, 1])
def test_files_are_read_as_training_reads_them(tmp_path, pictures, channels):
    for name, path in pictures.items():
        (tmp_path / name).mkdir()
        for number in range(2):
            shutil.copy(path, tmp_path / name / f"{number}{path.suffix}")
    write_animation(tmp_path / "moves.webp", frames=2, lossless=True)
    write_animation(tmp_path / "moves.png", frames=3, default_image=True)
    write_animation(tmp_path / "moves.tif", frames=2)
    items, _ = items_from_folder(tmp_path, Layout(), max_bad=0)
    source = ClipSource(items, Cut(2, 16, 16, channels, crop="center"), decoder="pyav", workers=0)
    trained = next(source.batches(len(items), seed=0)).video[:, 0].numpy()
    order = source.sampler.clips(0, range(len(items)))
    assert len(items) == len(pictures) + 3 and sorted(order) == list(range(len(items)))
    for clip, expected in zip(order, trained, strict=True):
        path = tmp_path / items[clip].name
        path = path / f"0{path.suffix}" if path.is_dir() else path
        given = fit_image(image_input.read_image(path), 16, 16, channels)
        assert given.shape == (16, 16, channels) and np.array_equal(given, expected), path


def read_image(image):
    """The picture's pixels, uint8 (H, W, 3)."""
    picture = image_input.read_image(image)
    assert picture.mode == "RGB"
    return np.asarray(picture)


def write_animation(path, frames=4, **options):
    first, *others = (Image.fromarray(frame) for frame in make_numbered(frames, HEIGHT, WIDTH))
    first.save(path, save_all=True, append_images=others, **options)
    return path


def test_pixels_are_what_they_should_be(pictures):
    def read(name):
        return read_image(pictures[name]).astype(int)

    for name in ("rgb.png", "rgb.bmp", "rgb.ppm", "rgb.tif", "rgb.webp"):
        assert np.array_equal(read(name), RGB)
    for number, turn in TURNS.items():
        for suffix in ("png", "webp", "tif"):
            assert np.array_equal(read(f"turned{number}.{suffix}"), turn(RGB)), (number, suffix)
        assert np.abs(read(f"turned{number}.jpg") - turn(RGB)).mean() < 20
    composed = RGB * (ALPHA / 255)
    assert np.abs(read("rgba.png") - composed).max() <= 1
    assert np.array_equal(read("grey.png"), np.repeat(RGB[..., :1], 3, -1))
    assert np.array_equal(read("deep_grey.png")[..., 0], np.rint(DEEP[..., 0] / 257))
    assert np.array_equal(read("deep_grey.tif")[..., 2], np.rint(DEEP[..., 0] / 257))
    assert np.array_equal(read("deep_rgb.png"), DEEP[..., :3] >> 8)
    assert np.abs(read("deep_rgba.png") - DEEP[..., :3] / 257 * (DEEP[..., 3:] / 65535)).max() <= 2
    clear = (RGB == RGB[0, 0]).all(-1)
    assert np.array_equal(read("clear_colour.png"), np.where(clear[..., None], 0, RGB))


def test_a_path_a_pil_image_an_array_and_a_tensor_are_the_same(pictures):
    for name, path in pictures.items():
        expected = read_image(path)
        assert expected.dtype == np.uint8 and expected.shape[2] == 3
        assert np.array_equal(read_image(str(path)), expected)
        with Image.open(path) as opened:
            before = opened.copy()
            assert np.array_equal(read_image(opened), expected), name
            assert opened.size == before.size and np.array_equal(opened, before), "the caller's image was changed"
            # An array knows nothing of palettes, orientation and inverted inks.
            if opened.mode in ("P", "CMYK") or "turned" in name or "transparency" in opened.info:
                continue
            array = np.asarray(opened)
        if name.startswith("deep_rgb"):  # Pillow has cut it to 8 bits
            array = DEEP[..., : 4 if "rgba" in name else 3]
        elif name.startswith("deep_la"):
            array = DEEP[..., :2]
        assert np.array_equal(read_image(array), expected), name
        assert np.array_equal(read_image(torch.from_numpy(array.copy())), expected), name
        if array.ndim == 3:
            assert np.array_equal(read_image(torch.from_numpy(array.copy()).permute(2, 0, 1)), expected), name
        else:
            assert np.array_equal(read_image(array[..., None]), expected), name
            assert np.array_equal(read_image(torch.from_numpy(array.copy())[None]), expected), name


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.dtype(">f4"), np.longdouble])
def test_floats_are_rounded_to_the_nearest(dtype):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(read_image((levels / 255).astype(dtype))[..., 1], levels)
    shifted = np.clip(levels / 255 + 0.4 / 255, 0, 1).astype(dtype)
    assert np.array_equal(read_image(shifted)[..., 1], levels)


def test_other_layouts_of_memory():
    big_endian = DEEP[..., 0].astype(">u2")
    assert np.array_equal(read_image(big_endian), read_image(DEEP[..., 0]))
    assert np.array_equal(read_image(RGB[::-1, ::-2]), read_image(RGB[::-1, ::-2].copy()))
    assert np.array_equal(read_image(RGB[..., 0] > 99)[..., 0], (RGB[..., 0] > 99) * 255)
    half = torch.tensor([[0, 0.5], [0.25, 1]], dtype=torch.bfloat16, requires_grad=True)
    assert read_image(half)[..., 0].tolist() == [[0, 128], [64, 255]]
    assert np.array_equal(read_image(read_image(RGB)), RGB)


def test_the_first_frame_of_one_that_moves_is_taken_and_said(tmp_path, caplog):
    frames = make_numbered(4, HEIGHT, WIDTH)
    for name, options, first in [
        ("x.webp", {"lossless": True}, 0),
        ("x.png", {}, 0),
        ("y.png", {"default_image": True}, 1),
        ("x.tif", {}, 0),
        ("x.gif", {}, 0),
    ]:
        caplog.clear()
        assert np.array_equal(read_image(write_animation(tmp_path / name, **options)), frames[first]), name
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert record.getMessage() == f"the image {tmp_path / name} is an animation; using its first frame"
    for suffix in ("webp", "png"):
        turned = write_animation(tmp_path / f"turned.{suffix}", lossless=True, exif=make_exif(6))
        assert np.array_equal(read_image(turned), np.rot90(frames[0], -1)), suffix
    caplog.clear()
    palette = Image.fromarray(RGB).quantize(16)
    palette.save(tmp_path / "still.gif")
    assert np.array_equal(read_image(tmp_path / "still.gif"), palette.convert("RGB")) and not caplog.records


def png_of_size(path, height, width):
    """A PNG file whose header, with a right checksum, claims that size."""
    Image.new("L", (1, 1)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)


BAD_FILES = {
    "missing.png": r"the image \S*missing\.png cannot be used \(No such file or directory\); pass a PNG, JPEG, ",
    "folder": r"folder cannot be used \(is a folder\); pass a PNG",
    "words.txt": r"words\.txt cannot be used \(is not a picture of a kind that can be read\)",
    "empty.png": r"empty\.png cannot be used \(is empty\)",
    "cut.png": r"cut\.png cannot be used \(Truncated File Read\)",
    "cut.jpg": r"cut\.jpg cannot be used \(image file is truncated.*\)",
    "flipped.png": r"flipped\.png cannot be used \(.*(broken|checksum).*\)",
    "moves_flipped.png": r"moves_flipped\.png cannot be used \(damaged: .*(broken|checksum).*\)",
    "film.mp4": r"film\.mp4 cannot be used \(is a video; `ffmpeg -i VIDEO -frames:v 1 first\.png` saves its first ",
    "large.png": r"large\.png cannot be used \(is 9000x40 pixels large, more than 8192 a side\)",
    "bomb.png": r"bomb\.png cannot be used \(claims more pixels than a picture may have, 8192x8192\)",
    "huge.png": r"huge\.png cannot be used \(claims more pixels than a picture may have, 8192x8192\)",
    "slim.png": r"slim\.png cannot be used \(has frames of 650x10, one side more than 64 times the other\)",
    "slim.gif": r"slim\.gif cannot be used \(has frames of 650x10, one side more than 64 times the other\)",
    "real.tif": r"real\.tif cannot be used \(has pixels of a kind that cannot be shown \(F\): .*\)",
    "pipe": r"pipe cannot be used \(is not a regular file\)",
    "cut.gif": r"cut\.gif cannot be used \(.*\)",
    "x.png/x.png": r"x\.png cannot be used \(Not a directory\)",
    "null\0.png": r"cannot be used \(.*null byte.*\)",
}


def make_bad(folder, name):
    path = folder / name
    if name == "folder":
        path.mkdir()
    elif name == "words.txt":
        path.write_text("a red 7")
    elif name == "empty.png":
        path.touch()
    elif name.startswith("cut"):
        Image.fromarray(RGB).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    elif "flipped" in name:
        write_animation(path) if "moves" in name else Image.fromarray(RGB).save(path)
        data = bytearray(path.read_bytes())
        data[-20 if "moves" not in name else -40] ^= 255
        path.write_bytes(data)
    elif name == "film.mp4":
        encode(path, make_numbered(3), "h264")
    elif name in ("large.png", "bomb.png", "huge.png"):
        png_of_size(path, *{"large.png": (40, 9000), "bomb.png": (10000, 10000), "huge.png": (60000, 60000)}[name])
    elif name.startswith("slim"):
        Image.new("L", (650, 10)).save(path)
    elif name == "real.tif":
        Image.fromarray(np.ones((9, 9), np.float32)).save(path)
    elif name == "pipe":
        os.mkfifo(path)
    elif name == "x.png/x.png":
        (folder / "x.png").touch()
    return path


@pytest.mark.parametrize("name", BAD_FILES)
def test_unusable_files(tmp_path, name, recwarn):
    path = make_bad(tmp_path, name)
    for given in (path, str(path)):
        with pytest.raises(UserError, match=BAD_FILES[name]) as raised:
            read_image(given)
        assert "\n" not in str(raised.value)
    assert not any(issubclass(warning.category, Image.DecompressionBombWarning) for warning in recwarn)


def nan():
    array = np.zeros((9, 9))
    array[3, 4] = np.nan
    return array


BAD_VALUES = [
    (lambda: np.zeros((3, 64, 64), np.uint8), r"has the shape \(3, 64, 64\); pass one picture, an array \(H, W\) or "),
    (lambda: torch.zeros(1, 3, 16, 16), r"has the shape \(1, 3, 16, 16\); pass one picture"),
    (lambda: np.zeros(9, np.uint8), r"has the shape \(9,\)"),
    (lambda: np.zeros(()), r"has the shape \(\)"),
    (lambda: torch.zeros(16, 16, 5), r"has the shape \(16, 16, 5\)"),
    (
        lambda: torch.zeros(3, 16, 4),
        r"tensor of shape \(3, 16, 4\), may be \(C, H, W\) or \(H, W, C\); pass",
    ),
    (lambda: np.zeros((0, 9, 3), np.uint8), r"of shape \(0, 9, 3\) has no pixels"),
    (lambda: torch.zeros(3, 0, 9), r"of shape \(0, 9, 3\) has no pixels"),
    (lambda: np.zeros((9, 9), np.int64), "is of int64; pass uint8, uint16, bool, or floats in"),
    (lambda: torch.zeros(9, 9, dtype=torch.int32), "is of int32; pass uint8"),
    (lambda: np.zeros((9, 9), complex), "is of complex128; pass uint8"),
    (lambda: np.full((9, 9), "x"), "is of <U1; pass uint8"),
    (lambda: np.full((9, 9), None), "is of object; pass uint8"),
    (nan, r"holds NaN or infinite values; pass floats in \[0, 1\]"),
    (lambda: torch.from_numpy(nan()), "holds NaN or infinite values"),
    (lambda: np.full((9, 9), np.inf), "holds NaN or infinite values"),
    (
        lambda: torch.linspace(-1, 1, 81).view(9, 9),
        r"holds floats from -1 to 1; pass floats in \[0, 1\]: \(x",
    ),
    (lambda: np.linspace(0, 255, 81).reshape(9, 9), r"holds floats from 0 to 255; pass .* x / 255 of values"),
    (lambda: np.full((9, 9), 1.003), "holds floats from 1.003 to 1.003"),
    (lambda: np.full((9, 9), -0.003), "holds floats from -0.003"),
    (
        lambda: np.broadcast_to(np.uint8(1), (9000, 9000)),
        "9000.* cannot be used .is 9000x9000 pixels large, more",
    ),
    (
        lambda: np.broadcast_to(np.uint8(1), (2, 1000)),
        "one side more than 64 times the other.; pass a picture",
    ),
    (lambda: torch.zeros(9, 9).to_sparse(), r"tensor without plain values \(torch.sparse_coo, torch.float32\)"),
    (lambda: torch.zeros(9, 9, device="meta"), "tensor without plain values"),
    (lambda: [[0, 1], [2, 3]], "the image is a list; pass a path, a PIL image, an array"),
    (lambda: b"x.png", "the image is a bytes; pass a path"),
    (lambda: Image.new("F", (9, 9)), r"the F image cannot be used \(has pixels of a kind .*\); convert it to RGB"),
    (lambda: Image.new("RGB", (9, 0)), r"the RGB image cannot be used \(has no pixels\)"),
    (lambda: Image.new("L", (9000, 4000)), r"the L image cannot be used \(is 9000x4000 pixels large"),
]


@pytest.mark.parametrize(("make", "sentence"), BAD_VALUES)
def test_unusable_values(make, sentence):
    with pytest.raises(UserError, match=sentence) as raised:
        read_image(make())
    assert "\n" not in str(raised.value)


def test_unusable_pil_images_of_files(tmp_path):
    with Image.open(make_bad(tmp_path, "cut.png")) as opened, pytest.raises(UserError, match="RGB image .*truncated"):
        read_image(opened)
    Image.fromarray(RGB).save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as closed:
        pass
    with pytest.raises(UserError, match="the RGB image cannot be used"):
        read_image(closed)


def test_memory_and_the_disk_may_fail(tmp_path, monkeypatch):
    Image.fromarray(RGB).save(tmp_path / "x.png")
    for error, reason in [(MemoryError(), "memory ran out"), (OSError(5, "Input/output error"), "Input/output error")]:
        with monkeypatch.context() as patched:

            def fails(*arguments, error=error, **options):
                raise error

            patched.setattr("fastvgan.data.media.pictures._file_bytes", fails)
            with pytest.raises(UserError, match=rf"x\.png cannot be used \({reason}\)"):
                read_image(tmp_path / "x.png")


def test_a_file_is_read_without_torch_and_pyav(pictures):
    code = (
        "import sys; from fastvgan.data.media.image_input import read_image; print(read_image(sys.argv[1]).size, "
        "*{'torch', 'av', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, pictures["rgba.png"]], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.stdout == f"({WIDTH}, {HEIGHT})\n", done.stderr
