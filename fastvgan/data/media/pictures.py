"""Reading clips stored as pictures, by Pillow: a folder or zip file of pictures, or a strip."""

import os
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

from fastvgan.data.folders.names import in_order, is_picture
from fastvgan.data.media import zips
from fastvgan.data.media.types import LARGEST_SIDE, BadVideo, Damaged, Media, Probe, cover
from fastvgan.data.paths import as_text, stays_within, unusable_name

if TYPE_CHECKING:
    import numpy as np

# Pillow would hand other files to the handlers of any format it knows, Ghostscript among them.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM")


def probe(media: Media, tolerant: bool = False) -> Probe:
    """Decode all pictures; see `fastvgan.data.media.frames.probe`. Pillow conceals no errors: `tolerant` is unused."""
    if media.kind == "strip":
        strip = _strip(media, thorough=True)
        check_pixels(strip.image)
        return Probe(strip.frames, strip.height, strip.width, strip.codec)
    pictures = _pictures(media)
    image, codec = _picture(pictures, 0, None, thorough=True)
    size = _size(image)
    check_pixels(image)
    for number in range(1, len(pictures.names)):
        check_pixels(_picture(pictures, number, size, thorough=True)[0])
    return Probe(len(pictures.names), size[0], size[1], codec)


def read_frames(
    media: Media, found: Probe, indices: list[int], height: int, width: int, channels: int, threads: int = 1
) -> "np.ndarray":
    """Read frames, uint8 (N, H, W, C); see `fastvgan.data.media.frames.read_frames`."""
    import numpy as np  # late: first frames are read without it

    scaled = {}
    if media.kind == "strip":
        strip = _strip(media)
        _check_unchanged(found, Probe(strip.frames, strip.height, strip.width, strip.codec))
        whole = plain(strip.image, channels)
        for index in dict.fromkeys(indices):
            scaled[index] = pixels(whole.crop(strip.box(index)), height, width)
    else:
        pictures = _pictures(media)
        _check_unchanged(found, found._replace(frames=len(pictures.names)))
        for index in dict.fromkeys(indices):
            image, _ = _picture(pictures, index, (found.height, found.width))
            scaled[index] = pixels(plain(image, channels), height, width)
    return np.stack([scaled[index] for index in indices])


def walk(
    media: Media, height: int, width: int, channels: int, found: Probe | None = None
) -> "Iterator[tuple[float | None, np.ndarray]]":
    """Yield None and frames, uint8 (H, W, C); see `fastvgan.data.media.frames.walk`."""
    if media.kind == "strip":
        strip = _strip(media)
        whole = plain(strip.image, channels)
        for number in range(strip.frames):
            yield None, pixels(whole.crop(strip.box(number)), height, width)
        return
    pictures, size = _pictures(media), None
    for number in range(len(pictures.names)):
        image, _ = _picture(pictures, number, size)
        size = size or _size(image)
        yield None, pixels(plain(image, channels), height, width)


def names_in(media: Media) -> list[str]:
    """List the names of a folder's usable pictures in natural order."""
    with os.scandir(media.path) as entries:
        return in_order(entry.name for entry in entries if _is_taken(entry, media.within))


def header_size(path: Path) -> tuple[int, int] | None:
    """Read height and width from a picture's header, before any rotation; None if it is unreadable."""
    try:
        with Image.open(BytesIO(_file_bytes(path)), formats=_FORMATS) as image:
            return image.height, image.width
    except Exception:  # see _decode
        return None


def read_picture(path: Path) -> Image.Image:
    """Read the picture in a file, upright, and check it as `probe` does.

    Raises:
        BadVideo: It cannot be decoded, or is too large.
        OSError, MemoryError: The file cannot be read, or memory ran out.
    """
    return _decode(_file_bytes(path), thorough=True)[0]


def zip_folders(path: Path) -> dict[str, int]:
    """Count the pictures in each folder of a zip file; "" is the root. Only the zip file's directory is read.

    Raises:
        BadVideo: It cannot be read or is not a zip file.
    """
    return {folder: len(members) for folder, members in sorted(zips.open_archive(path).folders.items())}


def strip_layout(height: int, width: int, strip_frames: int = 0) -> tuple[int, int, int]:
    """Compute the number of frames in a strip, and their height and width.

    Args:
        height: Height of the strip.
        width: Width of the strip. The frames follow each other along the longer side.
        strip_frames: Number of frames; 0 for square frames.

    Raises:
        BadVideo: The strip cannot be divided into such frames.
    """
    longer, shorter = max(height, width), min(height, width)
    count = strip_frames or longer // shorter
    if longer % count or (not strip_frames and longer % shorter):
        parts = f"{strip_frames} frames" if strip_frames else "square frames; --strip-frames says how many there are"
        raise BadVideo(f"is a picture of {width}x{height}, which cannot be divided into {parts}")
    part = longer // count
    return (count, height, part) if width >= height else (count, part, width)


class _Pictures(NamedTuple):
    """Pictures in order: their names, and a function from a number to a picture's bytes."""

    names: list[str]
    read: Callable[[int], bytes]


class _Strip(NamedTuple):
    """A strip, upright, and the size of its frames."""

    image: Image.Image
    codec: str
    frames: int
    height: int
    width: int

    def box(self, number: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of a frame."""
        across = self.image.width > self.width
        left, top = (number * self.width, 0) if across else (0, number * self.height)
        return left, top, left + self.width, top + self.height


def _pictures(media: Media) -> _Pictures:
    pictures = _pictures_of_zip(media) if media.kind == "zip" else _pictures_of_folder(media)
    if not pictures.names:
        raise BadVideo("holds no picture")
    return pictures


def _pictures_of_folder(media: Media) -> _Pictures:
    try:
        names = names_in(media)
    except OSError as error:
        raise BadVideo(f"cannot be read: {_why(error)}") from error
    return _Pictures(names, lambda number: _file_bytes(Path(media.path) / names[number]))


def _is_taken(entry: os.DirEntry, within: Path | None) -> bool:
    if not is_picture(entry.name) or unusable_name(entry.name) or not entry.is_file():
        return False
    return within is None or not entry.is_symlink() or stays_within(Path(entry.path), within)


def _pictures_of_zip(media: Media) -> _Pictures:
    archive = zips.open_archive(Path(media.path))
    members = archive.folders.get(media.member, [])
    names = [member.filename.replace("\\", "/").rsplit("/", 1)[-1] for member in members]
    return _Pictures(names, lambda number: zips.member_bytes(archive, members[number]))


def _file_bytes(path: Path) -> bytes:
    zips.check_weight(path.stat().st_size)
    return path.read_bytes()


def _picture(
    pictures: _Pictures, number: int, size: tuple[int, int] | None, thorough: bool = False
) -> tuple[Image.Image, str]:
    """Read picture `number`, upright, and its codec.

    Args:
        pictures: The pictures.
        number: Index of the picture.
        size: Height and width that it must have, if any.
        thorough: As in `_decode`.

    Raises:
        BadVideo: It cannot be read or decoded, is too large, or has another size.
    """
    name = as_text(pictures.names[number])
    try:
        image, codec = _decode(pictures.read(number), thorough)
    except (OSError, MemoryError) as error:
        raise BadVideo(f"cannot be read at frame {number} ({name}): {_why(error)}") from error
    except Damaged as error:
        raise BadVideo(f"damaged at frame {number} ({name}): {error}") from error
    except BadVideo as error:
        raise BadVideo(f"frame {number} ({name}) {error}") from error
    if size and size != _size(image):
        was, now = f"{size[1]}x{size[0]}", f"{image.width}x{image.height}"
        raise BadVideo(f"changes its size at frame {number}, from {was} to {now}")
    return image, codec


def _strip(media: Media, thorough: bool = False) -> _Strip:
    """Read a strip; `thorough` is as in `_decode`.

    Raises:
        BadVideo: It cannot be read, decoded or divided into frames, or is too large.
    """
    try:
        image, codec = _decode(_file_bytes(Path(media.path)), thorough, strip=True)
    except (OSError, MemoryError) as error:
        raise BadVideo(f"cannot be read: {_why(error)}") from error
    except Damaged as error:
        raise BadVideo(f"damaged: {error}") from error
    return _Strip(image, codec, *strip_layout(image.height, image.width, media.strip_frames))


def _decode(data: bytes, thorough: bool, strip: bool = False) -> tuple[Image.Image, str]:
    """Decode the picture in a file's bytes, upright, and return its codec too.

    Args:
        data: The bytes.
        thorough: Verify a PNG file's checksums, which decoding ignores.
        strip: Allow the picture to be longer than a frame.

    Raises:
        BadVideo: It cannot be decoded, or its header declares a picture that is too large.
        MemoryError: Memory ran out.
    """
    try:
        image = Image.open(BytesIO(data), formats=_FORMATS)
        check_size(_size(image), strip)
        if thorough and image.format == "PNG":
            image.verify()  # afterwards it must be opened again
            image = Image.open(BytesIO(data), formats=_FORMATS)
        image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadVideo(f"claims more pixels than a picture may have, {LARGEST_SIDE}x{LARGEST_SIDE}") from error
    except UnidentifiedImageError as error:
        raise Damaged("is not a picture of a kind that can be read") from error
    except (BadVideo, MemoryError):
        raise
    except Exception as error:  # Pillow raises errors of any kind for damaged files, even SyntaxError
        raise Damaged(str(error) or type(error).__name__) from error
    codec = "jpeg" if image.format == "MPO" else (image.format or "").lower()
    turn_upright(image)
    return image, codec


def _why(error: "OSError | MemoryError") -> str:
    return "memory ran out" if isinstance(error, MemoryError) else f"{error.strerror or error}"


def turn_upright(image: Image.Image) -> None:
    """Rotate and mirror a picture in place by its EXIF orientation, if it has one."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # damaged metadata raises errors of any kind; the picture stays unchanged
        pass


def check_size(size: tuple[int, int], strip: bool = False) -> None:
    """Refuse a picture whose (height, width) is too large; a strip may be longer, but not have more pixels.

    Raises:
        BadVideo: The picture is too large.
    """
    height, width = size
    if height * width > LARGEST_SIDE**2 or (not strip and max(height, width) > LARGEST_SIDE):
        raise BadVideo(f"is {width}x{height} pixels large, more than {LARGEST_SIDE} a side")


def _check_unchanged(found: Probe, now: Probe) -> None:
    if (found.frames, found.height, found.width) != (now.frames, now.height, now.width):
        was = f"{found.frames} frames of {found.width}x{found.height}"
        raise BadVideo(f"has changed, from {was} to {now.frames} of {now.width}x{now.height}")


def _size(image: Image.Image) -> tuple[int, int]:
    return image.height, image.width


def plain(image: Image.Image, channels: int) -> Image.Image:
    """Convert a picture to mode "L" (channels 1) or "RGB"; transparent pixels become black.

    Raises:
        BadVideo: The picture's mode has no defined range of values.
    """
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    try:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            black = Image.new("RGB", image.size)
            black.paste(image.convert("RGB"), mask=image.getchannel("A"))
            image = black
        elif image.mode == "F":
            raise ValueError("the range of floating-point values is undefined")
        return image if image.mode == "L" and channels == 1 else _convert(image, channels)
    except ValueError as error:
        raise BadVideo(f"has pixels of a kind that cannot be shown ({image.mode}): {error}") from error


def check_pixels(image: Image.Image) -> None:
    """Refuse a picture that `plain` could not convert when it is shown.

    Raises:
        BadVideo: The picture's mode has no defined range of values.
    """
    plain(image.crop((0, 0, 1, 1)), 3)


def _convert(image: Image.Image, channels: int) -> Image.Image:
    image = image.convert("RGB")
    return image if channels == 3 else image.convert("L")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert a grey picture from 16 to 8 bits per pixel; Pillow itself would clamp values at 255."""
    wide, levels = image.convert("I"), range(2**16)  # a table of these levels clips other values
    made = wide.point([(level + 128) // 257 for level in levels], "L")
    if "transparency" in image.info:  # the value of transparent pixels
        made.paste(0, mask=wide.point([255 * (level == image.info["transparency"]) for level in levels], "L"))
    return made


def scale(image: Image.Image, height: int, width: int) -> Image.Image:
    """Scale a result of `plain` to just cover height x width."""
    height, width = cover(_size(image), height, width)
    if (height, width) != _size(image):
        # BOX averages over areas, but repeats pixels when it enlarges.
        shrinks = height < image.height or width < image.width
        image = image.resize((width, height), Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR)
    return image


def pixels(image: Image.Image, height: int, width: int) -> "np.ndarray":
    """Scale a result of `plain` to just cover height x width, as uint8 (H, W, C)."""
    import numpy as np  # late: first frames are read without it

    scaled = scale(image, height, width)
    return np.asarray(scaled).reshape(scaled.height, scaled.width, -1)
