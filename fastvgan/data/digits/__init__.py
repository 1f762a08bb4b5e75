"""The data sets that ship with the package: captioned moving digits, and stacked digits (`stacked`)."""

from typing import TYPE_CHECKING, Any

from fastvgan.data.digits.words import COLOURS, MOTIONS

if TYPE_CHECKING:
    from fastvgan.data.digits.source import DigitsSource, Variant, caption

__all__ = ["COLOURS", "MOTIONS", "DigitsSource", "Variant", "caption"]


def __getattr__(name: str) -> Any:
    # Imported on first use: `generate` needs the words of the captions only.
    if name in __all__:
        from fastvgan.data.digits import source

        return getattr(source, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
