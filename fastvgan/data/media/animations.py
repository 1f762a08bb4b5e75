"""Reading animated WebP and PNG files, and TIFF files of several pages, by Pillow."""

import struct
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

from PIL import Image, UnidentifiedImageError

from fastvgan.data.media.pictures import check_pixels, check_size, pixels, plain, turn_upright
from fastvgan.data.media.types import BadVideo, Media, Probe
from fastvgan.data.media.zips import check_weight, read_member

if TYPE_CHECKING:
    import numpy as np

# The exception that follows reports the damage in one line, with the file's name.
warnings.filterwarnings("ignore", "Corrupt EXIF data", module="PIL")
SUFFIXES = frozenset(".png .apng .webp .tif .tiff".split())
_FORMATS = ("PNG", "WEBP", "TIFF")
_MOST_HEADERS = 64  # chunks of a PNG file before its pixels, or pages of a TIFF file, that are read
_STEADY = 0.02  # largest relative difference of the frames' durations
# Tag 254 of a TIFF page, whose first bit marks a smaller version of another page (TIFF 6.0, section 8).
_NEW_SUBFILE_TYPE, _REDUCED = 254, 1


class _Page(NamedTuple):
    """An upright frame and its duration in milliseconds, 0 if it is unknown."""

    image: Image.Image
    lasts: float


def is_animation(path: Path) -> bool:
    """Return whether the header of a picture's file declares several frames; unreadable files do not."""
    if path.suffix.lower() not in SUFFIXES:
        return False
    try:
        with path.open("rb") as file:
            return is_animated(file)
    except OSError:
        return False


def is_animated(file: BinaryIO) -> bool:
    """Return whether the header of a picture's file, open at its start, declares several frames."""
    try:
        start = file.read(32)
        if start.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png_moves(file)
        if start[:4] == b"RIFF" and start[8:16] == b"WEBPVP8X":
            return bool(start[20] & 2)
        if start[:4] in (b"II*\0", b"II+\0", b"MM\0*", b"MM\0+"):
            return _has_pages(file, "<" if start[:2] == b"II" else ">", b"+" in start[:4])
    except (struct.error, IndexError):
        pass
    return False


def probe(media: Media, tolerant: bool = False) -> Probe:
    """Decode an animation; see `fastvgan.data.media.frames.probe`. `tolerant` takes the frames before damage."""
    size: tuple[int, int] | None = None
    lasts: list[float] = []
    image = _open(media) if tolerant else _open_undamaged(media)
    codec = "apng" if image.format == "PNG" else (image.format or "").lower()
    try:
        for page in _pages(image):
            if size and size != (page.image.height, page.image.width):
                was, now = f"{size[1]}x{size[0]}", f"{page.image.width}x{page.image.height}"
                raise BadVideo(f"changes its size at frame {len(lasts)}, from {was} to {now}")
            size = page.image.height, page.image.width
            check_pixels(page.image)
            lasts.append(page.lasts)
    except BadVideo:
        if not (tolerant and lasts):
            raise
    assert size is not None  # `_pages` raises if an image has no frames
    fps, steady = _rate(lasts)
    return Probe(len(lasts), size[0], size[1], codec, fps, steady)


def read_frames(
    media: Media, found: Probe, indices: list[int], height: int, width: int, channels: int, threads: int = 1
) -> "np.ndarray":
    """Read frames, uint8 (N, H, W, C); see `frames.read_frames`. All frames up to the last one are decoded."""
    import numpy as np  # late: first frames are read without it

    wanted, scaled = frozenset(indices), {}
    for number, page in enumerate(_pages(_open(media))):
        if (found.height, found.width) != (page.image.height, page.image.width):
            raise BadVideo(f"has changed: frame {number} is {page.image.width}x{page.image.height} now")
        if number in wanted:
            scaled[number] = pixels(plain(page.image, channels), height, width)
        if number >= indices[-1]:
            break
    if len(scaled) < len(wanted):
        raise BadVideo("has changed: frames are missing")
    return np.stack([scaled[index] for index in indices])


def read_first(path: Path) -> Image.Image:
    """Read the first frame of an animation's file, upright.

    Raises:
        BadVideo: It cannot be read or decoded, or is too large.
    """
    return next(_pages(_open_undamaged(Media("animation", path)))).image


def walk(
    media: Media, height: int, width: int, channels: int, found: Probe | None = None
) -> "Iterator[tuple[float | None, np.ndarray]]":
    """Yield times and frames, uint8 (H, W, C); see `fastvgan.data.media.frames.walk`."""
    time: float | None = 0.0  # in milliseconds
    for number, page in enumerate(_pages(_open(media))):
        if number == 0 and not page.lasts:
            time = None
        yield (None if time is None else time / 1000), pixels(plain(page.image, channels), height, width)
        time = time + page.lasts if time is not None and page.lasts else None


def _png_moves(file: BinaryIO) -> bool:
    file.seek(8)
    for _ in range(_MOST_HEADERS):
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"acTL":
            return struct.unpack(">I", file.read(4))[0] > 1
        if kind == b"IDAT":
            return False
        file.seek(length + 4, 1)
    return False


def _has_pages(file: BinaryIO, order: str, is_big: bool) -> bool:
    """Whether a TIFF or BigTIFF file has a second page that is not a smaller version of another one."""
    word, count, entry = ("Q", "Q", 20) if is_big else ("I", "H", 12)
    file.seek(8 if is_big else 4)
    pages = 0
    for _ in range(_MOST_HEADERS):
        (place,) = struct.unpack(f"{order}{word}", file.read(struct.calcsize(word)))
        if not place:
            return False
        file.seek(place)
        (entries,) = struct.unpack(f"{order}{count}", file.read(struct.calcsize(count)))
        tags = file.read(entry * min(entries, 2**12))
        kind = 0
        for at in range(0, len(tags) - entry + 1, entry):
            if struct.unpack_from(f"{order}H", tags, at)[0] == _NEW_SUBFILE_TYPE:
                (kind,) = struct.unpack_from(f"{order}I", tags, at + entry - struct.calcsize(word))
        pages += not kind & _REDUCED
        if pages > 1:
            return True
    return False


def _open(media: Media) -> Image.Image:
    path = Path(media.path)
    try:
        if media.member:
            data = read_member(path, media.member)
        else:
            check_weight(path.stat().st_size)
            data = path.read_bytes()
        return Image.open(BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise BadVideo("damaged: is not a picture of a kind that can be read") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadVideo(f"claims more pixels than a picture may have: {error}") from error
    except MemoryError as error:
        raise BadVideo("cannot be read: memory ran out") from error
    except OSError as error:
        word = "cannot be read" if error.errno else "damaged"  # Pillow's own errors have no number
        raise BadVideo(f"{word}: {error.strerror or error}") from error
    except BadVideo:
        raise
    except Exception as error:  # Pillow raises errors of any kind for damaged files
        raise BadVideo(f"damaged: {error or type(error).__name__}") from error


def _open_undamaged(media: Media) -> Image.Image:
    """Like `_open`, but verify a PNG file's checksums, which decoding ignores."""
    image = _open(media)
    if image.format != "PNG":
        return image
    try:
        image.verify()
    except Exception as error:  # as above
        raise BadVideo(f"damaged: {error}") from error
    return _open(media)  # after verify() it must be opened again


def _pages(image: Image.Image) -> Iterator[_Page]:
    """Yield the frames of an animation, but no previews and no picture for programs that do not support animations.

    Raises:
        BadVideo: A frame cannot be decoded or is too large, or there are no frames.
    """
    number = 0
    try:
        for place in range(getattr(image, "n_frames", 1)):
            image.seek(place)
            check_size((image.height, image.width))
            if place == 0 and image.info.get("default_image"):
                continue
            if image.format == "TIFF" and cast(Any, image).tag_v2.get(_NEW_SUBFILE_TYPE, 0) & _REDUCED:
                continue
            image.load()
            yield _Page(_upright(image), float(image.info.get("duration") or 0))
            number += 1
    except MemoryError as error:
        raise BadVideo(f"cannot be read at frame {number}: memory ran out") from error
    except (BadVideo, GeneratorExit):
        raise
    except Exception as error:  # as above
        raise BadVideo(f"damaged at frame {number}: {error or type(error).__name__}") from error
    if not number:
        raise BadVideo("has no frames")


def _upright(image: Image.Image) -> Image.Image:
    turned = image.copy()  # Pillow draws the next frame over this one, as stored
    turn_upright(turned)
    return turned


def _rate(lasts: list[float]) -> tuple[float | None, bool]:
    """Mean frames per second, None if a duration is unknown, and whether all durations are equal."""
    between = lasts[:-1] or lasts
    if not all(between):
        return None, True
    mean = sum(between) / len(between)
    rate = round(1000 / mean, 3)
    return (rate if rate > 0 else None), all(abs(time - mean) <= max(1, _STEADY * mean) for time in between)
