"""The data sets that ship with the package: captioned moving digits, and stacked digits (`stacked`)."""

from fastvgan.data.digits.source import COLOURS, MOTIONS, DigitsSource, Variant, caption

__all__ = ["COLOURS", "MOTIONS", "DigitsSource", "Variant", "caption"]
