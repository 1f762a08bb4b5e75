"""Which of a file's video streams is the film, and what decodes it."""

import av

from fastvgan.data.media import BadVideo

# Covers of albums, stills for a menu, previews for a seek bar.
_PICTURES = (
    av.stream.Disposition.attached_pic | av.stream.Disposition.still_image | av.stream.Disposition.timed_thumbnails
)
# FFmpeg's own decoders of these ignore the second picture that holds the transparency; libvpx's heed it.
_HEEDS_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


def films(container: av.container.InputContainer) -> list[int]:
    """The video streams that may be the film, by their place among the file's video streams.

    Raises:
        BadVideo: there is none.
    """
    streams = container.streams.video
    if not streams:
        raise BadVideo("has no video stream")
    known = [i for i, stream in enumerate(streams) if stream.codec_context is not None]
    if not known:
        raise BadVideo("has a codec that FFmpeg does not know")
    moving = [i for i in known if not streams[i].disposition & _PICTURES]
    if not moving:
        raise BadVideo("has no video stream but a cover or a still picture")
    return moving


def longest_film(container: av.container.InputContainer, candidates: list[int]) -> int:
    """The film among several streams, for which the file is read to its end.

    A stream of one packet is a picture that nobody marked as such. Among the others the one that the file plays by
    default comes first, then the largest, then the longest: the order in which FFmpeg's command line chooses.
    """
    streams = container.streams.video
    packets = dict.fromkeys((streams[i].index for i in candidates), 0)
    try:
        for packet in container.demux([streams[i] for i in candidates]):
            packets[packet.stream_index] += packet.size > 0
    except av.FFmpegError:
        pass  # decoding meets the same error, and says where

    def rank(number: int) -> tuple:
        stream = streams[number]
        count, context = packets[stream.index], stream.codec_context
        is_default = bool(stream.disposition & av.stream.Disposition.default)
        return count > 1, is_default, context.width * context.height, count, -number

    return max(candidates, key=rank)


def decoder_of(stream: av.VideoStream) -> av.VideoCodecContext:
    """What decodes a stream: its own decoder, or one that heeds transparency where the file says that it has some."""
    context = stream.codec_context
    name = _HEEDS_ALPHA.get(context.codec.canonical_name)
    if name is None or stream.metadata.get("alpha_mode") != "1":
        return context
    try:
        heeds = av.CodecContext.create(name, "r")
    except av.codec.codec.UnknownCodecError as error:
        raise BadVideo(f"has transparency that this FFmpeg cannot decode, for want of {name}") from error
    heeds.extradata = context.extradata
    return heeds
