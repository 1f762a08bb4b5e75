"""Deinterlacing by FFmpeg's filter bwdif."""

from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
from av.filter import Graph

# Bob Weaver, after the BBC's w3fdif and yadif: one frame for one, from the field that is shown first, by the frame
# before and the frame after. All frames go through it, so that each depends on those two alone, wherever decoding
# began.
_FILTER, _ARGUMENTS = "bwdif", "mode=send_frame:parity=auto:deint=all"
_SMALLEST = (4, 3)  # rows and columns; the filter takes no less


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
    graph.threads = 1  # files are worked on side by side
    unit = frame.time_base or Fraction(1, 1000)  # times are put back afterwards
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
