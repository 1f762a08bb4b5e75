"""Detection of truncated video files by the structure of their containers.

The duration in a header is that of the longest stream, and its number of frames is too large after cuts and dropped
frames: neither is evidence. The parts of a file (boxes, clusters, pages, tags) are: each has a length, and a part that
ends beyond the end of the file was cut off.
"""

import re
import struct
from collections.abc import Callable
from typing import BinaryIO

_TAIL = 2**18  # bytes at the end of a stream of small packets that are read
_UNKNOWN = 2**31 - 1  # placeholder of recorders for a length that is filled in later


def ends_early(file: BinaryIO, size: int, container: str) -> bool:
    """Return whether a file was cut off in its frames, or lacks a part that its header announces.

    For streams without lengths the result is False; only decoding can detect their truncation.

    Args:
        file: The file, at any position.
        size: Its length in bytes.
        container: FFmpeg's name of the container.
    """
    look = _LOOKS.get(container.split(",")[0])
    try:
        return look is not None and look(file, size)
    except (struct.error, IndexError):  # there are fewer bytes than what was being read takes
        return True
    except (KeyError, ValueError):  # not what FFmpeg took it for
        return False


def _read(file: BinaryIO, place: int, form: str) -> tuple:
    file.seek(place)
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _in_boxes(file: BinaryIO, size: int) -> bool:
    """ISO/IEC 14496-12: of fragments, all that were begun are there, and all that a segment index refers to.

    In a file that is not fragmented the index says it for each stream, see `fastvgan.data.media.video_files`.
    """
    place, is_fragmented = 0, False
    while size - place >= 8:
        length, kind = _read(file, place, ">I4s")
        is_fragmented |= kind in (b"moof", b"sidx")
        header = 8
        if length == 1:
            (length,) = _read(file, place + 8, ">Q")
            header = 16
        if kind not in _BOXES or length < header:
            return False  # appended data is ignored; a last box of length 0 extends to the end of the file
        if is_fragmented and kind in (b"moof", b"mdat") and place + length > size:
            return True
        if kind == b"sidx" and place + length + _count_referenced(file, place + header) > size:
            return True
        place += length
    return is_fragmented and 0 < size - place < 8


_BOXES = frozenset(b"ftyp styp moov moof mdat mfra free skip wide sidx ssix emsg prft uuid meta pdin udta".split())


def _count_referenced(file: BinaryIO, place: int) -> int:
    """How many bytes beyond a segment index it refers to."""
    (version,) = _read(file, place, ">Bxxx")
    first, count = _read(file, place + 12, ">4xIxxH" if version == 0 else ">8xQxxH")
    file.seek(place + (24 if version == 0 else 32))
    references = struct.unpack(f">{3 * count}I", file.read(12 * count))
    return first + sum(reference & 0x7FFFFFFF for reference in references[::3])


def _in_elements(file: BinaryIO, size: int) -> bool:
    """Matroska and WebM (RFC 9559): the segment ends where it says, or what is missing of it are no frames."""
    place = _after_element(file, 0)
    if place > size:
        return True
    identity, length, place = _element(file, place)
    if identity != _SEGMENT:
        return False
    end = None if length is None else place + length
    while place < (size if end is None else end):
        if place >= size:
            return True
        identity, length, place = _element(file, place)
        if length is None:
            if identity != _CLUSTER:
                return False
            continue  # one of unknown length; what it holds is walked through like what follows it
        place += length
        if place > size:
            return identity == _CLUSTER or identity in _BLOCKS
    return False


_SEGMENT, _CLUSTER, _BLOCKS = 0x18538067, 0x1F43B675, (0xA3, 0xA0)


def _element(file: BinaryIO, place: int) -> tuple[int, int | None, int]:
    """An element's identity, the length of what it holds (None: unknown), and where that begins."""
    file.seek(place)
    data = file.read(12)
    width = 9 - data[0].bit_length()
    identity = int.from_bytes(data[:width], "big")
    rest = data[width:]
    places = 9 - rest[0].bit_length()
    if width > 8 or places > 8:  # damage, which the demuxer steps over
        return 0, None, place
    if len(rest) < places:
        raise IndexError
    length = int.from_bytes(rest[:places], "big") & (1 << 7 * places) - 1
    return identity, None if length == (1 << 7 * places) - 1 else length, place + width + places


def _after_element(file: BinaryIO, place: int) -> int:
    _, length, place = _element(file, place)
    return place + (length or 0)


def _in_chunks(file: BinaryIO, size: int) -> bool:
    """AVI, with OpenDML's extensions: the lists of frames are whole."""
    place = 0
    while size - place >= 12:
        kind, length = _read(file, place, "<4sI")
        if kind != b"RIFF":
            return False
        end = place + 8 + length + length % 2
        inner = place + 12
        while inner < min(end, size) and size - inner >= 8:
            kind, inside = _read(file, inner, "<4sI")
            is_frames = kind == b"LIST" and _read(file, inner + 8, "<4s") == (b"movi",)
            if is_frames and (inside == 0 or inside >= _UNKNOWN):
                return False
            inner += 8 + inside + inside % 2
            if inner > size + 1:  # the byte that makes a length even may lack
                return is_frames
        place = end
    return False


def _in_tags(file: BinaryIO, size: int) -> bool:
    """FLV: the last tag is whole, and the file has the size that it was given, where it was given one."""
    place = int(_read(file, 5, ">I")[0]) + 4
    file.seek(place)
    said = file.read(4096).partition(b"\x00\x08filesize\x00")[2]
    if len(said) >= 8 and size < struct.unpack(">d", said[:8])[0] < 2**53:
        return True
    while size - place >= 11:
        kind, high, low = _read(file, place, ">BBH")
        if kind & 0x1F not in (8, 9, 18):
            return False
        place += 11 + (high << 16 | low) + 4
    return not -4 <= size - place <= 0  # only the last tag's length may follow it


def _in_pages(file: BinaryIO, size: int) -> bool:
    """Ogg (RFC 3533): the last page is whole and so is the last packet of each video stream, or they ended before."""
    # Of each video stream that has not said that it ends: whether its last page breaks off within a packet. Many
    # files lack the mark of the end, so that one which stops after a packet counts as whole.
    breaks_off: dict[int, bool] = {}
    place = 0
    while place < size:
        file.seek(place)
        header = file.read(27 + 255 + 8)
        if header[:4] != b"OggS":
            return False
        flags, serial, count = header[5], int.from_bytes(header[14:18], "little"), header[26]
        lacing, payload = header[27 : 27 + count], header[27 + count :]
        place += 27 + count + sum(lacing)
        is_video = serial in breaks_off or (flags & _OGG_FIRST and not payload.startswith(_OGG_SOUND))
        if place > size:
            return is_video or bool(breaks_off)
        if is_video:
            breaks_off[serial] = lacing[-1:] == b"\xff"
        if flags & _OGG_LAST:
            breaks_off.pop(serial, None)
    return any(breaks_off.values())


_OGG_FIRST, _OGG_LAST = 2, 4
_OGG_SOUND = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex", b"fishead", b"\x80kate", b"CMML", b"PCM ")


def _in_objects(file: BinaryIO, size: int) -> bool:
    """ASF: the object that holds the frames is whole."""
    place = 0
    while size - place >= 24:
        identity, length = _read(file, place, "<16sQ")
        if identity == _ASF_DATA:
            return 24 < length < 2**62 and place + length > size
        if length < 24:
            return False
        place += length
    return False


_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")


def _in_transport_packets(file: BinaryIO, size: int) -> bool:
    """MPEG-TS: the file does not end within a packet."""
    file.seek(0)
    start = file.read(2048)
    for length, sync in ((188, 0), (192, 4), (204, 0)):
        # Two more have to follow: any byte may be one that marks a packet.
        if all(start[sync + i * length : sync + i * length + 1] == b"\x47" for i in range(3)):
            rest = size % length
            return rest > sync and _read(file, size - rest + sync, "B") == (0x47,)
    return False


def _in_program_packets(file: BinaryIO, size: int) -> bool:
    """MPEG-PS: the last packet is whole."""
    first = max(0, size - _TAIL)
    file.seek(first)
    data = file.read()
    place = data.find(b"\x00\x00\x01\xba")
    while 0 <= place < len(data):
        if data[place : place + 3] != b"\x00\x00\x01":
            return False
        kind = data[place + 3]
        if kind <= 0xB9:  # the end, or no stream of packets
            return False
        if kind == 0xBA:
            place += 14 + (data[place + 13] & 7) if data[place + 4] >> 6 == 1 else 12
        else:
            place += 6 + int.from_bytes(data[place + 4 : place + 6], "big")
    return place > len(data)


def _in_triplets(file: BinaryIO, size: int) -> bool:
    """MXF (SMPTE ST 377-1): the last triplet is whole, and so is what the header says lies at the end."""
    place = 0
    while place < size:
        file.seek(place)
        head = file.read(25)
        if head[:4] != b"\x06\x0e\x2b\x34":
            return False
        first = head[16]
        more = first & 0x7F if first & 0x80 else 0
        length = int.from_bytes(head[17 : 17 + more], "big") if more else first
        value = place + 17 + more
        if place == 0 and head[13:14] == b"\x02":
            (footer,) = _read(file, value + 24, ">Q")
            if footer >= size:
                return True
        place = value + length
    return place > size


def _in_blocks(file: BinaryIO, size: int) -> bool:
    """GIF: the last block is whole."""
    file.seek(0)
    data = file.read()
    place = 13 + _colours(data[10])
    while place < len(data) and data[place] != 0x3B:
        if data[place] == 0x21:
            place += 2
        elif data[place] == 0x2C:
            place += 11 + _colours(data[place + 9])
        else:
            return False
        while data[place]:
            place += data[place] + 1
        place += 1
    return False


def _in_ivf_frames(file: BinaryIO, size: int) -> bool:
    """IVF: the last frame is whole."""
    (place,) = _read(file, 6, "<H")
    while place < size:
        place += 12 + _read(file, place, "<I8x")[0]
    return place > size


def _in_raw_frames(file: BinaryIO, size: int) -> bool:
    """YUV4MPEG2: the file is as long as its first line and a number of frames."""
    file.seek(0)
    first = file.readline(256)
    said = {part[:1]: part[1:] for part in first.split()[1:]}
    width, height, kind = int(said[b"W"]), int(said[b"H"]), said.get(b"C", b"420").decode("latin-1")
    half, quarter = -(-width // 2), -(-width // 4)
    colours = {"420": half * -(-height // 2), "422": half * height, "411": quarter * height, "444": width * height}
    layers = 2 if kind.endswith("alpha") else 1
    samples = layers * width * height + 2 * colours.get(kind[:3], 0)
    is_wide = re.search(r"(p|mono)(9|1[0-6])$", kind) is not None  # more than eight bits a sample
    frame = len(file.readline(256)) + samples * (1 + is_wide)
    return (size - len(first)) % max(1, frame) > 0


def _colours(flags: int) -> int:
    """Bytes of the table of colours that follows."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


# Whether a file was cut off, by the first of FFmpeg's names of its container. The docstrings say what a whole file has.
_LOOKS: dict[str, Callable[[BinaryIO, int], bool]] = {
    "mov": _in_boxes,
    "matroska": _in_elements,
    "avi": _in_chunks,
    "flv": _in_tags,
    "ogg": _in_pages,
    "asf": _in_objects,
    "mpegts": _in_transport_packets,
    "mpeg": _in_program_packets,
    "mxf": _in_triplets,
    "gif": _in_blocks,
    "ivf": _in_ivf_frames,
    "yuv4mpegpipe": _in_raw_frames,
}
