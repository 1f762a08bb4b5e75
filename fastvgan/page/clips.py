"""Clips on the page: one picture that moves per clip, with its files to download."""

import re
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from fastvgan.errors import UserError
from fastvgan.files.video import enlarge, grid, write_video
from fastvgan.page.files import Files

MOST_CLIPS, MOST_FRAMES, MOST_LETTERS, MOST_SEED = 16, 64, 500, 2**31 - 1
FPS = 8
_DOWNLOADS = (".mp4", ".gif")


class Link(NamedTuple):
    """A file to download: the text of the link, and the address."""

    text: str
    address: str


class Card(NamedTuple):
    """A clip on the page: the address of its picture, its caption, and its files."""

    picture: str
    caption: str
    links: list[Link]


class Shown(NamedTuple):
    """Clips side by side.

    Attributes:
        title: what they show.
        facts: how they were made, in one line.
        cards: the clips.
        together: files of all clips side by side.
        command: command that makes the same clips; "" if none does.
    """

    title: str
    facts: str
    cards: list[Card]
    together: list[Link]
    command: str


def check_limits(texts: Sequence[str | None], count: int, frames: int, seed: int) -> None:
    """Check what a visitor typed against the limits of the page.

    Raises:
        UserError: a value is out of its limits.
    """
    for text in texts:
        if text is not None and len(text) > MOST_LETTERS:
            raise UserError(f"the sentence has {len(text):,} letters; shorten it to {MOST_LETTERS} or fewer")
    for value, what, least, most in (
        (count, "number of clips", 1, MOST_CLIPS),
        (frames, "length in frames", 1, MOST_FRAMES),
        (seed, "seed", 0, MOST_SEED),
    ):
        if not isinstance(value, int) or not least <= value <= most:
            raise UserError(f"the {what} is {value}; choose a whole number from {least} to {most:,}")


def show(files: Files, videos: torch.Tensor, captions: list[str], title: str, facts: str, command: str) -> str:
    """Write the files of clips, and return the HTML that shows the clips.

    Args:
        files: the page's temporary files.
        videos: uint8 (N, T, H, W, C), N one or more.
        captions: N captions.
        title: what the clips show.
        facts: how they were made.
        command: command that makes the same clips, or "".

    Raises:
        UserError: a file cannot be written.
    """
    folder, stem, frames = files.new_folder(), _stem(title), np.asarray(videos)
    cards = []
    for number, (video, caption) in enumerate(zip(frames, captions, strict=True), 1):
        picture = folder / f"{stem}-{number}.png"
        _write_animation(picture, video)
        made = [folder / f"{stem}-{number}{suffix}" for suffix in _DOWNLOADS]
        for path in made:
            write_video(path, enlarge(video), FPS)
        cards.append(Card(_address(picture), caption, [Link(path.suffix[1:].upper(), _address(path)) for path in made]))
    together = []
    if len(cards) > 1:
        for path in (folder / f"{stem}-all{suffix}" for suffix in _DOWNLOADS):
            write_video(path, grid(videos), FPS)
            together.append(Link(path.suffix[1:].upper(), _address(path)))
    return render("clips.html", shown=Shown(title, facts, cards, together, command))


def command_line(name: str, options: dict[str, str | int | None]) -> str:
    """Return the command that makes the same clips, with the options that are not None."""
    given = [part for flag, value in options.items() if value is not None for part in (flag, str(value))]
    return shlex.join(["fastvgan", "generate", "--run", name, *given, "--out", "clips.gif"])


def render(template: str, **values: object) -> str:
    """Return HTML from a Jinja template of this folder, with values escaped."""
    return _ENVIRONMENT.get_template(template).render(values)


def message(sentence: str) -> str:
    """Return HTML that shows a message where clips would be."""
    return render("message.html", sentence=sentence, is_error=True)


def hint(sentence: str) -> str:
    """Return HTML of a hint where clips will be."""
    return render("message.html", sentence=sentence, is_error=False)


def duration(since: float) -> str:
    """Return the seconds since a value of `time.perf_counter`, as a text."""
    return f"{time.perf_counter() - since:.2g} s"


_ENVIRONMENT = Environment(
    loader=PackageLoader("fastvgan.page", ""),  # keeps compiled templates
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _address(path: Path) -> str:
    """Return the address of a file, relative to that of the page, so that it also holds behind a proxy."""
    return f"gradio_api/file={quote(str(path))}"


def _stem(title: str) -> str:
    """Return a file name for clips of a sentence."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60] or "clip"


def _write_animation(path: Path, video: np.ndarray) -> None:
    """Write a clip, uint8 (T, H, W, C), as an animated PNG of the same pixels, which the browser enlarges."""
    pictures = [Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame) for frame in video]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=1000 // FPS, loop=0)
