"""A run's report: one self-contained page with the contents of a run folder."""

import io
import json
import re
import shlex
from collections import deque
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import yaml
from jinja2 import Environment, StrictUndefined
from PIL import Image

from fastvgan.files.atomic import whole
from fastvgan.training.report.curves import (
    Group,
    Panel,
    Series,
    data_uri,
    groups,
    make_panel,
    readable,
    score_text,
    score_unit,
    series,
)

T = TypeVar("T")

REPORT = "report.html"
_PAGE = "page.html"  # the Jinja template beside this file
METRICS, EVALUATION = "metrics.jsonl", "evaluation.jsonl"
_STILLS = 12
_MOVING = 5 * 2**20  # bytes; larger ones are not shown
_STILL, _STILL_WIDTH = 150 * 2**10, 1200  # bytes, and width of the JPEG that replaces larger ones
_LOG_LINES = 200
_VALUE = 400  # characters of a setting; vocabularies are longer
_DEPTH = 4  # of nested settings; YAML allows cycles
# Whether lower or higher scores are better, by a part of the name; others have no best value: a frozen clip has the
# highest similarity of frames.
_LOWER = ("frechet", "kernel", "fvd", "fid", "distance", "copies", "loss", "error")
_HIGHER = ("accuracy", "precision", "recall", "digit", "colour", "motion", "joint", "psnr")
_OF_REAL = ("diversity", "varied_")  # relative to real clips: 1 is best, and noise is above it
_LEVEL = re.compile(r"^(?:\S+ ){0,3}(WARNING|ERROR|CRITICAL) ")
_NOT_IN_HTML = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


class _Gap(Exception):
    """Why a part of the page is missing: a sentence to show instead."""


class _Part(NamedTuple, Generic[T]):
    """A part of the page: its content, or the sentence to show instead."""

    content: T | None
    gap: str | None


class _Shown(NamedTuple):
    """Curves and remarks of the metrics or scores."""

    panels: list[Panel]
    remarks: list[str]


def write_report(folder: Path) -> Path:
    """Write report.html into a run folder from the folder's files, and return its path.

    A sentence replaces each part whose file is missing or damaged. The page embeds its pictures and has no scripts.

    Raises:
        UserError: the page cannot be written.
    """
    config, environment = _yaml(folder / "config.yaml"), _yaml(folder / "env.json")
    template = files("fastvgan.training.report").joinpath(_PAGE).read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(template)
    text = page.render(
        collect_progress(folder),
        config=_tables(config),
        environment=_tables(environment),
        profile=_profile(folder / "profile" / "table.txt"),
    )
    path = folder / REPORT
    with whole(path) as temporary:
        # HTML allows no control characters and no halves of surrogate pairs.
        temporary.write_text(text.translate(_NOT_IN_HTML), encoding="utf-8", errors="replace")
    return path


def collect_progress(folder: Path, is_live: bool = False) -> dict[str, Any]:
    """Collect what changes in a run folder while the run trains: curves, scores, samples, warnings.

    Args:
        folder: the run folder.
        is_live: whether the run may be writing: an unfinished last line of a file is not counted as damaged, and
            only the last samples are read.

    Returns:
        Values of a page's template: the texts `name` and `summary`, the pairs `facts`, and the parts `samples`,
        `evaluation`, `metrics` and `log`, each with its `content` or, if that is None, the sentence `gap`.
    """
    config, records = _yaml(folder / "config.yaml"), _records(folder / METRICS, is_live)
    evaluation, log = _part(_evaluation, folder / EVALUATION, is_live), _part(_log, folder / "log.txt")
    return {
        "name": folder.resolve().name,
        "summary": _summary(config.content),
        "facts": _facts(config.content, records.content, evaluation.content, log.content),
        "samples": _part(_samples, folder / "samples", 1 if is_live else _STILLS),
        "evaluation": evaluation,
        "metrics": _part(_metrics, records),
        "log": log,
    }


def _part(make: Callable[..., T], *arguments: Any) -> _Part[T]:
    try:
        return _Part(make(*arguments), None)
    except _Gap as gap:
        return _Part(None, str(gap))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError as error:
        raise _Gap(f"{path.name} is missing.") from error
    except OSError as error:
        raise _Gap(f"{path.name} cannot be read: {error.strerror or error}.") from error


def _yaml(path: Path) -> _Part[dict[str, Any]]:
    """Read the settings in a YAML or JSON file."""

    def load() -> dict[str, Any]:
        try:
            values = yaml.safe_load(_read(path))
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise _Gap(f"{path.name} is damaged: {' '.join(str(error).split()):.200}.") from error
        if not isinstance(values, dict) or not values:
            raise _Gap(f"{path.name} holds no settings.")
        return values

    return _part(load)


def _tables(settings: _Part[dict[str, Any]]) -> _Part[list[tuple[str, list[tuple[str, str]]]]]:
    """Make one table per group of settings, with rows of names and values."""
    if settings.content is None:
        return _Part(None, settings.gap)
    single = {key: value for key, value in settings.content.items() if not isinstance(value, dict)}
    grouped = {key: value for key, value in settings.content.items() if isinstance(value, dict)}
    tables = [("general", list(_rows(single)))] if single else []
    return _Part(tables + [(str(key), list(_rows(value))) for key, value in grouped.items()], None)


def _rows(settings: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        chosen = value.get("chosen") if isinstance(value, dict) else None
        if isinstance(chosen, dict):  # an operation; env.json says why the others were not chosen
            how = (f"{device}: {_value(list(why.values()))}" for device, why in chosen.items() if isinstance(why, dict))
            yield f"{above}{key}", "; ".join(how) or "not called"
        elif isinstance(value, dict) and value and above.count(".") < _DEPTH:
            yield from _rows(value, f"{above}{key}.")
        elif key == "command" and isinstance(value, list):
            yield f"{above}{key}", _value(shlex.join(map(str, value)))
        else:
            yield f"{above}{key}", _value(value)


def _value(value: object) -> str:
    if isinstance(value, list):
        text = ", ".join(map(str, value)) or "none"
    elif isinstance(value, bool):
        text = "yes" if value else "no"
    else:
        text = "none" if value is None or value == {} else str(value)
    return text if len(text) <= _VALUE else f"{text[:_VALUE]}… ({len(text)} characters)"


def _summary(config: dict[str, Any] | None) -> str | None:
    """Describe the model and its training in one line; None if settings are missing."""
    if config is None:
        return None
    try:
        model, data, training = config["model"], config["data"], config["training"]
        size = f"{model['frames']} frames of {model['height']}x{model['width']}x{model['channels']}"
        condition = " ".join(model["condition"]) or "none"
        return (
            f"{model['family']} model, {size}, condition: {condition}; data: {data['data']}; "
            f"{training['batch_size']} clips per step"
        )
    except (TypeError, KeyError):
        return None


def _facts(
    config: dict[str, Any] | None,
    records: tuple[list[dict[str, Any]], int] | None,
    evaluation: dict[str, Any] | None,
    log: dict[str, Any] | None,
) -> list[tuple[str, str]]:
    """Summarise the run's progress in a few numbers."""
    facts = []
    metrics = series(records[0]) if records else {}
    reached = max((one.steps[-1] for one in metrics.values() if one.steps), default=None)
    if reached is not None:
        training = (config or {}).get("training")
        steps = training.get("steps") if isinstance(training, dict) else None
        facts.append(("step", f"{reached:.0f} of {steps}" if steps else f"{reached:.0f}"))
    if "videos_per_second" in metrics and metrics["videos_per_second"].values:
        speeds = sorted(metrics["videos_per_second"].values)
        facts.append(("videos per second, median", readable(speeds[len(speeds) // 2 :])))
    for name, (step, value) in (evaluation["best"] if evaluation else {}).items():
        facts.append((f"best {name}", f"{score_text(name, value)} at step {step:.0f}"))
    if log is not None:
        facts.append(("warnings and errors", str(len(log["lines"]) + log["left_out"])))
    return facts


def _records(path: Path, is_live: bool = False) -> _Part[tuple[list[dict[str, Any]], int]]:
    """Read the lines of a .jsonl file as dictionaries, and count damaged ones."""

    def load() -> tuple[list[dict[str, Any]], int]:
        records, damaged = [], 0
        text = _read(path)
        if is_live:  # up to the end of the last whole line
            text = text[: text.rfind("\n") + 1]
        for line in text.splitlines():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):  # usually the last line, truncated when the run ended
                record = None
            if isinstance(record, dict):
                records.append(record)
            elif line.strip():
                damaged += 1
        if not records:
            raise _Gap(f"{path.name} has no readable line.")
        return records, damaged

    return _part(load)


def _series(records: _Part[tuple[list[dict[str, Any]], int]], name: str) -> tuple[dict[str, Series], list[str]]:
    """Return the metrics of a file's lines, and a remark on damaged ones."""
    if records.content is None:
        raise _Gap(records.gap or "")
    lines, damaged = records.content
    found = series(lines)
    if not found:
        raise _Gap(f"{name} has no numbers by step.")
    return found, [f"Damaged lines of {name}, skipped: {damaged}."] if damaged else []


def _metrics(records: _Part[tuple[list[dict[str, Any]], int]]) -> _Shown:
    found, remarks = _series(records, METRICS)
    return _Shown([make_panel(group, found) for group in groups(found)], remarks)


def _evaluation(path: Path, is_live: bool) -> dict[str, Any]:
    """Make panels, a table and the best values of the scores in evaluation.jsonl."""
    records = _records(path, is_live)
    if records.gap and not path.exists():
        raise _Gap(f"The run was not evaluated: {path.name} is missing.")
    found, remarks = _series(records, path.name)
    best = {name: value for name, one in found.items() if (value := _best(name, one))}
    by_step = {name: dict(zip(one.steps, one.values, strict=True)) for name, one in found.items()}
    steps = sorted({step for one in found.values() for step in (*one.steps, *one.broken)})
    rows = [
        (
            f"{step:.0f}",
            [
                (
                    score_text(name, by_step[name][step]) if step in by_step[name] else "",
                    step in best.get(name, ())[:1],
                )
                for name in found
            ],
        )
        for step in steps
    ]
    panels = [make_panel(Group(name, (name,), score_unit(name)), found) for name in found]
    return {"panels": panels, "names": list(found), "rows": rows, "best": best, "remarks": remarks}


def _best(name: str, one: Series) -> tuple[float, float] | None:
    """Return step and value of the best score; None if there is no value, or none is better than another."""
    name = name.lower()
    if any(part in name for part in _OF_REAL):
        distances = [abs(value - 1) for value in one.values]
    elif any(part in name for part in _LOWER):
        distances = one.values
    elif any(part in name for part in _HIGHER):
        distances = [-value for value in one.values]
    else:
        return None
    ranked = zip(distances, one.steps, one.values, strict=True)
    return min(ranked, key=lambda item: item[0])[1:] if one.values else None


def _samples(folder: Path, count: int) -> dict[str, Any]:
    """Collect `count` stills with their steps, the last animation, and remarks on pictures that cannot be shown."""
    numbered = {int(match[1]): path for path in folder.glob("step-*.png") if (match := _step(path))}
    if not numbered:
        raise _Gap("The run has no samples yet.")
    steps = sorted(numbered)
    last = len(steps) - 1
    places = sorted({last - round(last * i / max(1, count - 1)) for i in range(count)})
    stills, remarks = [], []
    for step in (steps[place] for place in places):
        still = _part(_still, numbered[step])
        if still.gap:
            remarks.append(still.gap)
        else:
            stills.append((step, still.content))
    moving = _part(_gif, numbered[steps[-1]].with_suffix(".gif"))
    if moving.gap:
        remarks.append(moving.gap)
    return {"stills": stills, "moving": moving.content, "last": steps[-1], "remarks": remarks}


def _step(path: Path) -> re.Match[str] | None:
    return re.fullmatch(r"step-([0-9]{1,15})", path.stem)


def _bytes(path: Path, convert: Callable[[Image.Image], bytes | None]) -> bytes:
    """Read a picture's file, or what `convert` returns for the picture instead."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as picture:
            return convert(picture) or content
    except FileNotFoundError as error:
        raise _Gap(f"{path.name} is missing.") from error
    # Pillow raises any of these for a damaged file.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise _Gap(f"{path.name} cannot be read: {reason}.") from error


def _still(path: Path) -> str:
    def small(picture: Image.Image) -> bytes | None:
        picture.load()
        if path.stat().st_size <= _STILL:
            return None
        file = io.BytesIO()
        rgb = picture.convert("RGB")
        rgb.thumbnail((_STILL_WIDTH, 10 * _STILL_WIDTH))
        rgb.save(file, "JPEG", quality=80, subsampling=0)
        return min(file.getvalue(), path.read_bytes(), key=len)

    content = _bytes(path, small)
    return data_uri("image/jpeg" if content.startswith(b"\xff\xd8") else "image/png", content)


def _gif(path: Path) -> str:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise _Gap(f"{path.name} is missing.") from error
    if size >= _MOVING:
        raise _Gap(f"{path.name} is not shown: it has {size / 2**20:.1f} MiB.")

    def check(picture: Image.Image) -> None:
        picture.load()

    return data_uri("image/gif", _bytes(path, check))


def _profile(path: Path) -> str | None:
    return _part(_read, path).content


def _log(path: Path) -> dict[str, Any]:
    """Collect the last warnings and errors, each with whether it is an error, and count earlier ones."""
    found: deque[tuple[str, bool]] = deque(maxlen=_LOG_LINES)
    count = 0
    for line in _read(path).splitlines():
        if match := _LEVEL.match(line):
            found.append((line, match[1] != "WARNING"))
            count += 1
    if not found:
        raise _Gap("log.txt has no warnings or errors.")
    return {"lines": list(found), "left_out": count - len(found)}
