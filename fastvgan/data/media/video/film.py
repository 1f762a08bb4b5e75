"""Choice of the film among a file's video streams, and of its decoder."""

import av
import av.stream

from fastvgan.data.media.types import BadVideo

# Album covers, stills for a menu, previews for a seek bar.
_PICTURES = (
    av.stream.Disposition.attached_pic | av.stream.Disposition.still_image | av.stream.Disposition.timed_thumbnails
)
# FFmpeg's own decoders of these codecs ignore transparency, which is stored as a second picture; libvpx's decode it.
_HEEDS_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


def films(container: av.container.InputContainer) -> list[int]:
    """List the numbers of the video streams that may be the film.

    Streams marked as covers or stills count only if they have several frames and no other stream exists: some demuxers
    mark every stream with a codec that is common for covers.

    Raises:
        BadVideo: No stream may be the film.
    """
    streams = container.streams.video
    if not streams:
        raise BadVideo("has no video stream")
    known = [i for i, stream in enumerate(streams) if stream.codec_context is not None]
    if not known:
        raise BadVideo("has a codec that FFmpeg does not know")
    moving = [i for i in known if not streams[i].disposition & _PICTURES]
    if not moving:
        packets = _packets_of(container, known)
        moving = [i for i in known if packets[i] > 1]
    if not moving:
        raise BadVideo("has no video stream but a cover or a still picture")
    return moving


def longest_film(container: av.container.InputContainer, candidates: list[int]) -> int:
    """Choose the film among several streams; the file is read to its end.

    A stream of one packet is an unmarked picture. Otherwise the file's default stream is chosen, then the largest, then
    the longest, as by FFmpeg's command line.
    """
    packets = _packets_of(container, candidates)

    def rank(number: int) -> tuple:
        stream = container.streams.video[number]
        is_default = bool(stream.disposition & av.stream.Disposition.default)
        size = stream.codec_context.width * stream.codec_context.height
        return packets[number] > 1, is_default, size, packets[number], -number

    return max(candidates, key=rank)


def _packets_of(container: av.container.InputContainer, numbers: list[int]) -> dict[int, int]:
    """Count the packets of some video streams; the container is read to its end."""
    place = {container.streams.video[number].index: number for number in numbers}
    counts = dict.fromkeys(numbers, 0)
    try:
        for packet in container.demux([container.streams.video[number] for number in numbers]):
            if packet.size:
                counts[place[packet.stream_index]] += 1
    except av.FFmpegError:
        pass  # decoding meets the same error, and reports its place
    return counts


def decoder_of(stream: av.VideoStream) -> av.VideoCodecContext:
    """Return a stream's decoder, or one that supports transparency if the file declares it."""
    context = stream.codec_context
    name = _HEEDS_ALPHA.get(context.codec.canonical_name)
    if name is None or "1" not in (value for key, value in stream.metadata.items() if key.lower() == "alpha_mode"):
        return context
    try:
        heeds = av.CodecContext.create(name, "r")
    except av.codec.codec.UnknownCodecError as error:
        raise BadVideo(f"has transparency, which this FFmpeg cannot decode without {name}") from error
    heeds.extradata = context.extradata
    assert isinstance(heeds, av.VideoCodecContext)
    return heeds
