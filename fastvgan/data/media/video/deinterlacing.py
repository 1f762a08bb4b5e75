"""Deinterlacing by FFmpeg's filter bwdif."""

from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
from av.filter import Graph

# "Bob Weaver", based on the BBC's w3fdif and on yadif: one output frame per input frame, from the field that is shown
# first and from the previous and next frame. All frames pass through the filter, so that the result depends on these
# three alone, wherever decoding began.
_FILTER, _ARGUMENTS = "bwdif", "mode=send_frame:parity=auto:deint=all"
_SMALLEST = (4, 3)  # rows and columns; the filter refuses smaller frames


def deinterlace(frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """Deinterlace consecutive frames; progressive frames pass unchanged.

    The first and the last frame have one neighbour only. If the clip continues beyond them, discard them.
    """
    graph: Graph | None = None
    waiting: list[av.VideoFrame] = []
    for frame in frames:
        if frame.height < _SMALLEST[0] or frame.width < _SMALLEST[1]:
            yield frame
            continue
        graph = graph or _graph(frame)
        graph.vpush(frame)
        waiting.append(frame)
        yield from _ready(graph, waiting)
    if graph is not None:
        graph.vpush(None)
        yield from _ready(graph, waiting)


def _graph(frame: av.VideoFrame) -> Graph:
    graph = Graph()
    graph.threads = 1  # several files are decoded in parallel
    unit = frame.time_base or Fraction(1, 1000)  # times are restored afterwards
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=unit)
    graph.link_nodes(source, graph.add(_FILTER, _ARGUMENTS), graph.add("buffersink")).configure()
    return graph


def _ready(graph: Graph, waiting: list[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    while True:
        try:
            made = graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return
        frame = waiting.pop(0)
        if not frame.interlaced_frame:
            yield frame
            continue
        made.pts, made.time_base = frame.pts, frame.time_base
        yield made
