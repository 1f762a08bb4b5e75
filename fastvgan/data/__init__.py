"""Clips to train on."""

from pathlib import Path

from fastvgan.data.source import Source

__all__ = ["Source", "open_source"]


def open_source(data, model) -> Source:
    """The source that a `DataConfig` names, with clips of the size that a `ModelConfig` names.

    Raises:
        UserError: the folder is missing or empty, too much of it is unreadable, or it lacks a condition that the model
            follows.
    """
    if data.data == "digits":
        from fastvgan.data.digits import DigitsSource

        return DigitsSource(model.frames, model.height, model.width, model.channels)
    from fastvgan.data.folder import FolderSource

    require = next((part for part in ("text", "class") if part in model.condition), "none")
    return FolderSource(
        Path(data.data),
        model.frames,
        model.height,
        model.width,
        model.channels,
        stride=data.stride,
        require=require,
        max_bad=data.max_bad,
        workers=data.workers,
    )
