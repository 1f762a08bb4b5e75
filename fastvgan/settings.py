"""The base class of all configuration classes."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from fastvgan.errors import UserError

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""A seed that torch, numpy and Python's random all accept."""
Count = Annotated[int, Field(ge=1, le=10**12)]
"""A number of steps or passes; its product with the batch size fits into 64 bits."""

MOST_CLIPS = 100_000
"""The most clips that one command makes."""

_SEEDS = re.compile(r"(\d{1,40})(?:-(\d{1,40}))?")
_LARGEST, _SMALLEST = 3.4e38, 1.2e-38  # the largest float32, and the smallest of full precision
_FIRST = 3  # messages that are shown of many


class FaultySettings(UserError):
    """One or more settings with invalid values.

    Args:
        faults: name, value and reason for each; the value is None where the message needs none.
    """

    def __init__(self, faults: list[tuple[str, Any, str]]):
        super().__init__(join_sentences(_sentence(*fault) for fault in faults))
        self.faults = faults

    def __reduce__(self) -> tuple[type[Self], tuple[list[tuple[str, Any, str]]]]:
        return type(self), (self.faults,)


class Settings(BaseModel):
    """Validated, immutable settings; an invalid value raises a `UserError` that names the setting."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _check_kind(cls, value: Any, info: ValidationInfo) -> Any:
        # A YAML file may say what no flag can; pydantic takes true for 1.
        described = cls.model_fields[info.field_name or ""]
        parts = value if isinstance(value, list | tuple) else (value,)
        if described.annotation is not bool and any(isinstance(part, bool) for part in parts):
            raise ValueError(
                "expected a number or a text, not true or false (which yes, no, on and off are in YAML, too; put such "
                "a text into quotes)"
            )
        if any(isinstance(part, str) and not part.strip() for part in parts) and value != described.default:
            raise ValueError("must not be empty; leave it out")
        return value

    @field_validator("*")
    @classmethod
    def _check_fits_float32(cls, value: Any, info: ValidationInfo) -> Any:
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, float) and abs(number) > _LARGEST for number in numbers):
            raise ValueError(f"must be at most {_LARGEST:g}, the largest float32")
        if any(isinstance(number, float) and 0 < abs(number) < _SMALLEST for number in numbers):
            raise ValueError(f"is too small for float32; use at least {_SMALLEST:g}")
        return value

    @model_validator(mode="wrap")
    @classmethod
    def _raise_one_sentence(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(values)
        except ValidationError as error:
            if not isinstance(values, dict | cls):
                raise  # nested settings: the outer settings know the name
            raise FaultySettings([_fault(item, cls.model_fields) for item in error.errors()]) from error


def expand_seeds(texts: Sequence[str]) -> list[int]:
    """Return the seeds that texts such as "3" and "0-7" name, in their order; a range includes its last seed.

    Raises:
        ValueError: a text names no seeds, or they are more than `MOST_CLIPS`.
    """
    seeds: list[int] = []
    for text in texts:
        found = _SEEDS.fullmatch(text)
        if found is None:
            raise ValueError("expected whole numbers of at least 0, or ranges such as 0-7")
        first, last = int(found[1]), int(found[2] or found[1])
        if max(first, last) >= 2**63:
            raise ValueError(f"must be less than {2**63}")
        if first > last:
            raise ValueError(f"the range {text} ends before it begins; pass {last}-{first}")
        if len(seeds) + last - first >= MOST_CLIPS:
            raise ValueError(f"expected at most {MOST_CLIPS:,} seeds")
        seeds += range(first, last + 1)
    return seeds


def join_sentences(sentences: Iterable[str]) -> str:
    """Join messages with semicolons, without repetitions; only the first three are shown, with the number of others."""
    once = list(dict.fromkeys(sentences))
    more = [f"and {len(once) - _FIRST} more"] if len(once) > _FIRST else []
    return "; ".join(once[:_FIRST] + more)


def _sentence(name: str, value: Any, reason: str) -> str:
    if not name:
        return reason
    return f"{name}: {reason}" if value is None else f"{name} {_shorten(value)}: {reason}"


def _shorten(value: Any) -> str:
    text = ", ".join(map(str, value)) if value and isinstance(value, tuple) else repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


# Messages for pydantic's error types; its error context fills the braces.
_REASONS = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "finite_number": "expected a finite number",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_parsing_size": "expected a whole number of fewer digits",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "string_type": "expected a string",
    "string_unicode": "expected a string",
    "path_type": "expected a path",
    "tuple_type": "expected a list",
    "missing": "is missing",
    "literal_error": "expected one of {expected}",
    "value_error": "{error}",
}


def _fault(item: Mapping[str, Any], known: Iterable[str]) -> tuple[str, Any, str]:
    # The path of an error also has indices into lists.
    names = [part for part in item["loc"] if isinstance(part, str)]
    name, kind, context = ".".join(names), item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(name, known, 1)
        return name, None, "is not a setting" + (f"; did you mean {near[0]}?" if near else "")
    if kind in ("model_type", "model_attributes_type"):
        return name, item["input"], "expected a mapping of settings"
    if kind == "missing" and name != item["loc"][-1]:
        return name, None, "has too few values"
    if kind not in _REASONS:
        return name, item["input"], item["msg"].removeprefix("Input ")
    context = {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in context.items()}
    if "expected" in context:  # "'auto', 'cpu' or 'cuda'"
        context["expected"] = context["expected"].replace("'", "").replace(" or ", ", ")
    return name, None if kind == "missing" else item["input"], _REASONS[kind].format(**context)
