"""A run's report: one page with everything a run folder shows, which needs nothing beside itself."""

import io
import json
import re
import shlex
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import yaml
from jinja2 import Environment, StrictUndefined
from PIL import Image

from fastvgan.files.atomic import whole
from fastvgan.training.report.curves import (
    Group,
    Series,
    data_uri,
    groups,
    panel,
    readable,
    score_text,
    score_unit,
    series,
)
from fastvgan.training.report.page import PAGE

REPORT = "report.html"
METRICS, EVALUATION = "metrics.jsonl", "evaluation.jsonl"
_STILLS = 12
_MOVING = 5 * 2**20  # bytes; larger ones are left out
_STILL, _STILL_WIDTH = 150 * 2**10, 1200  # bytes, and pixels of the JPEG that a larger one becomes if that is smaller
_LOG_LINES = 200
_VALUE = 400  # letters of a setting; vocabularies are longer
_DEPTH = 4  # of settings in settings; YAML can hold a group in itself
# Which way a score is better, by a part of its name; of others no value is marked.
_LOWER = ("frechet", "kernel", "fvd", "fid", "distance", "copies", "loss", "error")
_HIGHER = ("accuracy", "precision", "recall", "digit", "colour", "motion", "joint", "diversity", "psnr", "similarity")
_LEVEL = re.compile(r"^(?:\S+ ){0,3}(WARNING|ERROR|CRITICAL) ")
_NOT_IN_HTML = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


class _Gap(Exception):
    """Why a part of the page is missing, in one sentence that stands in its place."""


class _Part(NamedTuple):
    content: object
    gap: str | None


def write_report(folder: Path) -> Path:
    """Write report.html into a run folder, from what the folder holds; gives its path.

    What is missing or damaged leaves a sentence in its place. The page holds its pictures itself and has no scripts.

    Raises:
        UserError: it cannot be written.
    """
    config, environment = _yaml(folder / "config.yaml"), _yaml(folder / "env.json")
    records = _records(folder / METRICS)
    evaluation, log = _part(_evaluation, folder / EVALUATION), _part(_log, folder / "log.txt")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(PAGE)
    text = page.render(
        name=folder.resolve().name,
        told=_told(config.content),
        facts=_facts(config.content, records.content, evaluation.content, log.content),
        config=_tables(config),
        environment=_tables(environment),
        samples=_part(_samples, folder / "samples"),
        evaluation=evaluation,
        metrics=_part(_metrics, records),
        profile=_profile(folder / "profile" / "table.txt"),
        log=log,
    )
    path = folder / REPORT
    with whole(path) as temporary:
        # A file may hold what no page may: control characters, and halves of surrogate pairs.
        temporary.write_text(text.translate(_NOT_IN_HTML), encoding="utf-8", errors="replace")
    return path


def _part(make: Callable, *arguments) -> _Part:
    try:
        return _Part(make(*arguments), None)
    except _Gap as gap:
        return _Part(None, str(gap))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError as error:
        raise _Gap(f"There is no {path.name}.") from error
    except OSError as error:
        raise _Gap(f"{path.name} cannot be read: {error.strerror or error}.") from error


def _yaml(path: Path) -> _Part:
    """The settings in a YAML file, or in a JSON file, which is YAML too."""

    def load() -> dict:
        try:
            values = yaml.safe_load(_read(path))
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise _Gap(f"{path.name} is damaged: {' '.join(str(error).split()):.200}.") from error
        if not isinstance(values, dict) or not values:
            raise _Gap(f"{path.name} holds no settings.")
        return values

    return _part(load)


def _tables(settings: _Part) -> _Part:
    """A table for each group of settings, of rows of a name and a value."""
    if settings.gap:
        return settings
    single = {key: value for key, value in settings.content.items() if not isinstance(value, dict)}
    grouped = {key: value for key, value in settings.content.items() if isinstance(value, dict)}
    tables = [("general", list(_rows(single)))] if single else []
    return _Part(tables + [(str(key), list(_rows(value))) for key, value in grouped.items()], None)


def _rows(settings: dict, above: str = ""):
    for key, value in settings.items():
        chosen = value.get("chosen") if isinstance(value, dict) else None
        if isinstance(chosen, dict):  # an operation; why it was none of the others is in env.json
            how = (f"{device}: {_value(list(why.values()))}" for device, why in chosen.items() if isinstance(why, dict))
            yield f"{above}{key}", "; ".join(how) or "not called"
        elif isinstance(value, dict) and value and above.count(".") < _DEPTH:
            yield from _rows(value, f"{above}{key}.")
        elif key == "command" and isinstance(value, list):
            yield f"{above}{key}", _value(shlex.join(map(str, value)))
        else:
            yield f"{above}{key}", _value(value)


def _value(value) -> str:
    if isinstance(value, list):
        text = ", ".join(map(str, value)) or "none"
    elif isinstance(value, bool):
        text = "yes" if value else "no"
    else:
        text = "none" if value is None or value == {} else str(value)
    return text if len(text) <= _VALUE else f"{text[:_VALUE]}… ({len(text)} letters)"


def _told(config: dict | None) -> str | None:
    """What was trained, in one line; None where the settings do not say."""
    try:
        model, data, training = config["model"], config["data"], config["training"]
        size = f"{model['frames']} frames of {model['height']}x{model['width']}x{model['channels']}"
        condition = " ".join(model["condition"]) or "none"
        return (
            f"{model['family']} model, {size}, condition: {condition}; data: {data['data']}; "
            f"{training['batch_size']} clips a step"
        )
    except (TypeError, KeyError):
        return None


def _facts(config, records, evaluation, log) -> list[tuple[str, str]]:
    """How far the run came, in a few numbers."""
    facts = []
    metrics = series(records[0]) if records else {}
    reached = max((one.steps[-1] for one in metrics.values() if one.steps), default=None)
    if reached is not None:
        training = (config or {}).get("training")
        steps = training.get("steps") if isinstance(training, dict) else None
        facts.append(("step", f"{reached:.0f} of {steps}" if steps else f"{reached:.0f}"))
    if "videos_per_second" in metrics and metrics["videos_per_second"].values:
        speeds = sorted(metrics["videos_per_second"].values)
        facts.append(("videos a second, median", readable(speeds[len(speeds) // 2 :])))
    for name, (step, value) in (evaluation["best"] if evaluation else {}).items():
        facts.append((f"best {name}", f"{score_text(name, value)} at step {step:.0f}"))
    if log is not None:
        facts.append(("warnings and errors", str(len(log["lines"]) + log["left_out"])))
    return facts


def _records(path: Path) -> _Part:
    """The lines of a .jsonl file as dictionaries, and how many were damaged."""

    def load() -> tuple[list[dict], int]:
        records, damaged = [], 0
        for line in _read(path).splitlines():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):  # as a rule the last line, cut off by what ended the run
                record = None
            if isinstance(record, dict):
                records.append(record)
            elif line.strip():
                damaged += 1
        if not records:
            raise _Gap(f"{path.name} holds no line that can be read.")
        return records, damaged

    return _part(load)


def _metrics(records: _Part, name: str = METRICS) -> dict:
    if records.gap:
        raise _Gap(records.gap)
    lines, damaged = records.content
    found = series(lines)
    if not found:
        raise _Gap(f"{name} holds no numbers over steps.")
    remarks = [f"Damaged lines of {name}, left out: {damaged}."] if damaged else []
    return {"panels": [panel(group, found) for group in groups(found)], "remarks": remarks}


def _evaluation(path: Path) -> dict:
    """Panels, a table and the best values of the scores in evaluation.jsonl."""
    records = _records(path)
    if records.gap and not path.exists():
        raise _Gap(f"The run was not evaluated: there is no {path.name}.")
    shown = _metrics(records, path.name)
    found = series(records.content[0])
    best = {name: _best(name, one) for name, one in found.items() if _sign(name) and one.values}
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
    panels = [panel(Group(name, (name,), score_unit(name)), found) for name in found]
    return {"panels": panels, "names": list(found), "rows": rows, "best": best, "remarks": shown["remarks"]}


def _sign(name: str) -> int:
    """1 where a higher score is better, -1 where a lower one is, 0 where nobody knows."""
    name = name.lower()
    return -1 if any(part in name for part in _LOWER) else int(any(part in name for part in _HIGHER))


def _best(name: str, one: Series) -> tuple[float, float]:
    sign = _sign(name)
    return max(zip(one.steps, one.values, strict=True), key=lambda item: sign * item[1])


def _samples(folder: Path) -> dict:
    """The stills shown with their steps, the last one moving, and what could not be shown."""
    numbered = {int(match[1]): path for path in folder.glob("step-*.png") if (match := _step(path))}
    if not numbered:
        raise _Gap("There are no samples yet.")
    steps = sorted(numbered)
    places = sorted({round((len(steps) - 1) * i / (_STILLS - 1)) for i in range(_STILLS)})
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


def _step(path: Path) -> re.Match | None:
    return re.fullmatch(r"step-([0-9]{1,15})", path.stem)


def _bytes(path: Path, check: Callable[[Image.Image], bytes | None]) -> bytes:
    """A picture's file, or what `check` makes of the picture instead."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as picture:
            return check(picture) or content
    except FileNotFoundError as error:
        raise _Gap(f"There is no {path.name}.") from error
    # Pillow says of a damaged file that it is no OSError, or no syntax, or no value.
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
        raise _Gap(f"There is no {path.name}.") from error
    if size >= _MOVING:
        raise _Gap(f"{path.name} is not shown: it has {size / 2**20:.1f} MiB.")
    return data_uri("image/gif", _bytes(path, lambda picture: picture.load() and None))


def _profile(path: Path) -> str | None:
    return _part(_read, path).content


def _log(path: Path) -> dict:
    """The last warnings and errors, each with whether it is an error, and how many come before those."""
    found, count = deque(maxlen=_LOG_LINES), 0
    for line in _read(path).splitlines():
        if match := _LEVEL.match(line):
            found.append((line, match[1] != "WARNING"))
            count += 1
    if not found:
        raise _Gap("There are none in log.txt.")
    return {"lines": list(found), "left_out": count - len(found)}
