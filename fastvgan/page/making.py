"""What the page's buttons do: clips of a sentence, and clips on the way between two."""

import functools
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fastvgan.command_line import one_line
from fastvgan.data.media.image_input import read_image
from fastvgan.errors import UserError
from fastvgan.machine.memory import is_out_of_memory
from fastvgan.page import clips
from fastvgan.page.files import Files
from fastvgan.page.models import Models

logger = logging.getLogger("fastvgan")


def as_message(function: Callable[..., str]) -> Callable[..., str]:
    """Wrap a function that returns HTML: errors that a visitor can remedy become a message on the page."""

    @functools.wraps(function)
    def run(*arguments: Any) -> str:
        try:
            return function(*arguments)
        except UserError as error:
            return clips.message(one_line(str(error)))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            logger.warning("out of memory: %s", error)
            return clips.message("memory ran out; make fewer or shorter clips")

    return run


class Making:
    """Makes clips for the page; the methods return HTML.

    Args:
        models: the models to choose from.
        files: the page's temporary files.
    """

    def __init__(self, models: Models, files: Files):
        self._models = models
        self._files = files

    def clips(
        self,
        name: str,
        text: str | None,
        image: str | None,
        label: str | None,
        seed: int,
        count: int,
        frames: int,
    ) -> str:
        """Make clips under one condition, from `count` noises.

        Args:
            name: the model.
            text: sentence, used if the model follows text.
            image: file of the first frame, used if the model follows one.
            label: class, used if the model follows classes.
            seed: seed of the noise.
            count: number of clips.
            frames: length in frames, used if the model makes clips of any length.

        Raises:
            UserError: a value is missing, out of its limits, or not supported by the model.
        """
        form = self._models.form(name)
        clips.check_limits([text], count, frames, seed)
        text = (text or "").strip() if "text" in form.follows else None
        image = image if "image" in form.follows else None
        label = label if "class" in form.follows else None
        if text == "":
            raise UserError("type a sentence first, or click an example")
        if "image" in form.follows and image is None:
            raise UserError("upload the first frame first")
        start = time.perf_counter()
        videos = self._models.open(name).generate(
            text=text,
            image=None if image is None else _read(image),
            label=label,
            n=count,
            seed=seed,
            frames=frames if form.is_any_length else None,
        )
        options = {"--text": text, "--image": None if image is None else "FIRST_FRAME", "--label": label}
        options |= {"--n": count, "--seed": seed, "--frames": frames if form.is_any_length else None}
        return clips.show(
            self._files,
            videos,
            [f"clip {number}" for number in range(1, count + 1)],
            " · ".join(filter(None, (text, label))) or ("the first frame, continued" if image else "clips from noise"),
            f"{_facts(videos)}, seed {seed}, in {clips.duration(start)}",
            clips.command_line(name, options),
        )

    def between(self, name: str, first: str | None, second: str | None, seed: int, count: int, frames: int) -> str:
        """Make clips on the way from one sentence to another, all from the same noise.

        Args:
            name: the model, which must follow text only.
            first: the first sentence.
            second: the second sentence.
            seed: seed of the noise.
            count: number of clips, the first and the last under the two sentences; at least 2.
            frames: length in frames, used if the model makes clips of any length.

        Raises:
            UserError: a value is missing, out of its limits, or not supported by the model.
        """
        form = self._models.form(name)
        clips.check_limits([first, second], count, frames, seed)
        if form.follows != ("text",):
            follows = " and ".join(form.follows) or "no condition"
            raise UserError(f"{name} follows {follows}; choose a model that follows text only")
        first, second = (first or "").strip(), (second or "").strip()
        if not first or not second:
            raise UserError("type two sentences first")
        if count < 2:
            raise UserError(f"the number of clips is {count}; choose 2 or more")
        start = time.perf_counter()
        made = self._models.open(name).interpolate(
            first, second, steps=count, seed=seed, frames=frames if form.is_any_length else None
        )
        videos = made.to_tensor()
        return clips.show(
            self._files,
            videos,
            [f"{round(100 * step / (count - 1))}%" for step in range(count)],
            f"from {first} to {second}",
            f"{_facts(videos)}, seed {seed}, in {clips.duration(start)}",
            "",
        )


def _facts(videos: torch.Tensor) -> str:
    count, frames, height, width, _ = videos.shape
    return f"{count} clip{'s' if count > 1 else ''} of {frames} frames, {height}x{width} pixels"


def _read(image: str) -> Any:
    """Read an uploaded picture; messages call it by that, not by the path of its copy."""
    try:
        return read_image(image)
    except UserError as error:
        raise UserError(str(error).replace(f"the image {image}", f"the picture {Path(image).name}")) from error
