"""The command line of all commands: each field of a command's `Settings` is a flag.

`tyro` prints the help. It does not parse the flags, because its error messages are boxes of many lines and the hook
that would change them is private.
"""

import difflib
import inspect
import io
import logging
import math
import os
import re
import signal
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, cast, get_args, get_origin

import tyro
from pydantic.fields import FieldInfo

from fastvgan.errors import UserError
from fastvgan.machine.interrupts import keep_interrupts
from fastvgan.machine.memory import is_out_of_memory
from fastvgan.machine.neighbours import watch_neighbours
from fastvgan.machine.threads import set_up_threads
from fastvgan.settings import FaultySettings, Settings, join_sentences

_Command = TypeVar("_Command", bound=Settings)

_EXPECTED = {int: "a whole number", float: "a number", Path: "a path", str: "a string"}
_EXPECTED_MANY = {int: "whole numbers", float: "numbers", Path: "paths", str: "strings"}
_NONE = "None"  # the value that unsets an optional flag
_LOOKS_LIKE_FLAG = re.compile(r"--?[^\W\d]|--[^-]")
_NUMBER = re.compile(r"-(inf|nan|infinity)$", re.IGNORECASE)
_SHOWN, _LONGEST = 60, 2000  # characters shown of a value, and of a whole message
_MOST_DIGITS = 40
_MODULES = "python -m fastvgan."  # starts each command by itself
_umbrella: ContextVar[str | None] = ContextVar("umbrella", default=None)


@dataclass(frozen=True)
class Flag:
    """A flag, or a positional argument.

    Attributes:
        name: as typed, "--batch-size", or "OUT" for a positional argument.
        path: path of the field in the settings.
        kind: bool, int, float, str or Path.
        choices: the allowed texts and their values; empty if every value of the kind is allowed.
        count: number of values; None for one or more.
        is_tuple: whether the values form a tuple.
        is_optional: whether None is allowed.
        is_positional: whether it is a positional argument.
    """

    name: str
    path: tuple[str, ...]
    kind: type
    choices: dict[str, Any]
    count: int | None
    is_tuple: bool
    is_optional: bool
    is_positional: bool

    @property
    def expected(self) -> str:
        """The allowed values, for error messages."""
        if self.choices:
            return f"{'one or more' if self.is_tuple else 'one'} of {', '.join(self.choices)}"
        if self.is_tuple:
            return f"{self.count or 'one or more'} {_EXPECTED_MANY[self.kind]}"
        return _EXPECTED[self.kind]


@dataclass
class Given:
    """A parsed command line: the values by the path of their field, and their texts as typed."""

    flags: list[Flag]
    values: dict[tuple[str, ...], Any] = field(default_factory=dict)
    typed: dict[tuple[str, ...], str] = field(default_factory=dict)
    wants_help: bool = False

    def get(self, *path: str) -> Any:
        """Return the value of the field at this path, or None if the command line does not have it."""
        return self.values.get(path)


def read_flags(command: type[Settings], arguments: Sequence[str] | None = None) -> Given:
    """Parse a command line. `settings_from` checks the limits of the values.

    The last one of a repeated flag counts, but a flag that takes any number of free values, such as --text, adds them.

    Args:
        command: settings class whose fields are the flags.
        arguments: arguments after the command's name; by default those of this process.

    Raises:
        UserError: a flag is unknown, has no value or one of the wrong type, or a positional argument is missing.
    """
    tokens = deque(sys.argv[1:] if arguments is None else arguments)
    given = Given(list(_flags(command)))
    known = {flag.name: flag for flag in given.flags if not flag.is_positional}
    places = deque(flag for flag in given.flags if flag.is_positional)
    given.wants_help = any(token in ("-h", "--help") for token in _before_end(tokens))
    if given.wants_help:
        return given
    last: Flag | None = None
    while tokens:
        token = tokens.popleft()
        if token == "--":
            while tokens:
                _take_place(given, places, tokens.popleft(), None)
        elif _looks_like_flag(token):
            last = _take_flag(given, known, token, tokens)
        else:
            _take_place(given, places, token, last)
    if places:
        names = " ".join(flag.name for flag in given.flags if flag.is_positional)
        raise UserError(f"{' and '.join(flag.name for flag in places)} missing; pass {names}, in this order")
    return given


def settings_from(command: type[_Command], given: Given, base: _Command | None = None, prog: str = "") -> _Command:
    """Return the settings of a command line; with --help, print the help and exit.

    Args:
        command: settings class.
        given: the parsed command line.
        base: settings that the command line overrides; by default the defaults of the class.
        prog: name of the command in the help.

    Raises:
        UserError: a value is not allowed; the message names the flag as typed.
    """
    if given.wants_help:
        _print_help(command, base, prog)
    values = base.model_dump() if base is not None else {}
    for path, value in given.values.items():
        part = values
        for name in path[:-1]:
            part = part.setdefault(name, {})
        part[path[-1]] = value
    try:
        return command.model_validate(values)
    except FaultySettings as error:
        raise UserError(join_sentences(_sentence(given, *fault) for fault in error.faults)) from error


def parse(command: type[_Command], prog: str, arguments: Sequence[str] | None = None) -> _Command:
    """Parse a command line into settings, for commands whose defaults do not depend on other flags.

    Raises:
        UserError: as `read_flags` and `settings_from`.
    """
    return settings_from(command, read_flags(command, arguments), prog=prog)


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run a command and exit with the status that its `main` returns (None counts as 0), or with 2 on an error.

    Bad input, lack of memory, and unreadable or unwritable files print one line to stderr. A closed pipe at stdout, as
    in `… | head`, is not an error. The threads of torch are configured first (`fastvgan.machine.threads`).

    Args:
        main: parses the command line of this process and runs the command.
    """
    watch_neighbours()
    set_up_threads()
    keep_interrupts()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names may hold bytes that cannot be decoded
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main() or 0
        if sys.stdout is not None:
            sys.stdout.flush()
    except UserError as error:
        status = _fail(str(error))
    except BrokenPipeError as error:  # of stdout, or of a worker's pipe, which is an error
        status = 0 if _drop_unread_output(ended_early=True) else _fail(_about_file(error))
    except KeyboardInterrupt:
        print("stopped by SIGINT", file=sys.stderr)
        status = 128 + signal.SIGINT
    except OSError as error:
        status = _fail(_about_file(error))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        status = _fail(f"out of memory{f' ({str(error).splitlines()[0]})' if str(error) else ''}")
    sys.exit(status)


@contextmanager
def spell_commands_by(program: str) -> Iterator[None]:
    """Spell commands in help and messages as subcommands of a program, `fastvgan` or `python -m fastvgan`."""
    token = _umbrella.set(program)
    try:
        yield
    finally:
        _umbrella.reset(token)


def as_typed(command: str) -> str:
    """Return a command, such as `python -m fastvgan.train --steps 5`, in the way in which this one was started."""
    program = _umbrella.get()
    if program is None or not command.startswith(_MODULES):
        return command
    return f"{program} {command.removeprefix(_MODULES)}"


def log_to_terminal() -> None:
    """Print log messages of level INFO and above to stderr, without prefixes."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")


def one_line(text: str) -> str:
    """Return a message as one printable line: control characters escaped, the middle of a long message cut out."""
    text = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} … {text[-half:]}"


def _fail(sentence: str) -> int:
    _drop_unread_output()
    print(f"error: {one_line(sentence)}", file=sys.stderr)
    return 2


def _drop_unread_output(ended_early: bool = False) -> bool:
    """Flush stdout, or discard its buffer if that fails. Return whether it was discarded."""
    try:
        if sys.stdout is not None:
            sys.stdout.write("\n" if ended_early else "")  # flush() alone does not retry a failed write
            sys.stdout.flush()
    except OSError:
        # The interpreter flushes stdout again at exit, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _about_file(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{error.strerror or error}"


def _flags(settings: type[Settings], path: tuple[str, ...] = ()) -> Iterator[Flag]:
    for name, described in settings.model_fields.items():
        kind = described.annotation
        if tyro.conf.Suppress in described.metadata:
            continue
        if isinstance(kind, type) and issubclass(kind, Settings):
            yield from _flags(kind, (*path, name))
        else:
            yield _flag((*path, name), described)


def _flag(path: tuple[str, ...], described: FieldInfo) -> Flag:
    kinds = [_without_annotation(described.annotation)]
    if get_origin(kinds[0]) in (Union, types.UnionType):
        kinds = [_without_annotation(kind) for kind in get_args(kinds[0])]
    is_optional = type(None) in kinds
    (kind,) = (kind for kind in kinds if kind is not type(None))
    is_tuple, count, choices = get_origin(kind) is tuple, 1, {}
    if is_tuple:
        parts = get_args(kind)
        kind, count = _without_annotation(parts[0]), None if parts[-1] is Ellipsis else len(parts)
    if get_origin(kind) is Literal:
        choices = {str(value): value for value in get_args(kind)}
        kind = type(get_args(kind)[0])
    is_positional = tyro.conf.Positional in described.metadata
    # A field may set the name of its flag by tyro.conf.arg(name=…), whose class is private to tyro.
    options = [cast(Any, part) for part in described.metadata if type(part) is type(tyro.conf.arg())]
    name = next((option.name for option in options if option.name), path[-1])
    name = name.upper() if is_positional else f"--{name.replace('_', '-')}"
    return Flag(name, path, kind, choices, count, is_tuple, is_optional, is_positional)


def _without_annotation(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _take_flag(given: Given, known: dict[str, Flag], token: str, tokens: deque[str]) -> Flag:
    typed, attached, value = token.partition("=")
    name = typed.replace("_", "-")
    flag = known.get(name)
    positive = known.get(f"--{name.removeprefix('--no-')}") if name.startswith("--no-") else None
    if flag is None and positive is not None and positive.kind is bool:
        if attached:
            raise UserError(f"{_quote(token)}: {name} takes no value")
        given.values[positive.path] = False
        return positive
    if flag is None:
        raise UserError(f"unknown flag {_quote(typed)}{_nearest(name, known)}; --help lists all flags")
    if flag.kind is bool:
        if attached:
            raise UserError(f"{_quote(token)}: {name} takes no value; its opposite is --no-{name[2:]}")
        given.values[flag.path] = True
        return flag
    _store(given, flag, [value] if attached else [], tokens)
    return flag


def _store(given: Given, flag: Flag, values: list[str], tokens: deque[str]) -> None:
    wanted = math.inf if flag.count is None else flag.count
    # A value attached by "=" is in the list already; further values may follow.
    while len(values) < wanted and tokens and not (_looks_like_flag(tokens[0]) or tokens[0] == "--"):
        values.append(tokens.popleft())
        if flag.is_optional and values == [_NONE]:
            break
    typed = " ".join(_quote(value) for value in values)
    if not values:
        got = f"got the flag {_quote(tokens[0])}" if tokens else "got nothing"
        raise UserError(f"{flag.name}: expected {flag.expected}, {got}")
    before = given.values.get(flag.path) if flag.is_tuple and flag.count is None and not flag.choices else None
    given.typed[flag.path] = f"{given.typed[flag.path]} {typed}" if before else typed
    if flag.is_optional and values == [_NONE]:
        given.values[flag.path] = None
        return
    if flag.count is not None and len(values) < flag.count:
        raise UserError(f"{flag.name} {typed}: expected {flag.expected}")
    if flag.is_tuple and flag.choices:  # names contain no comma, so `color,cutout` is two of them
        values = [name for value in values for name in value.split(",")]
    made = tuple(_convert(flag, value) for value in values)
    given.values[flag.path] = (*(before or ()), *made) if flag.is_tuple else made[0]


def _take_place(given: Given, places: deque[Flag], token: str, before: Flag | None) -> None:
    if places:
        flag = places.popleft()
        given.typed[flag.path] = _quote(token)
        given.values[flag.path] = _convert(flag, token)
        return
    known = {flag.name: flag for flag in given.flags if not flag.is_positional}
    if before is not None and before.kind is bool:
        raise UserError(
            f"{before.name} {_quote(token)}: {before.name} takes no value; its opposite is --no-{before.name[2:]}"
        )
    if before is not None:
        quotes = "; quote a value that contains spaces" if before.kind in (str, Path) else ""
        typed = f"{given.typed[before.path]} {_quote(token)}"
        raise UserError(f"{before.name} {typed}: expected {before.expected} only{quotes}")
    near = _nearest(f"--{token.partition('=')[0].replace('_', '-')}", known)
    raise UserError(f"unexpected argument {_quote(token)}{near}; --help lists all flags")


def _convert(flag: Flag, text: str) -> Any:
    typed = f"{flag.name} {_quote(text)}"
    if flag.choices:
        if text not in flag.choices:
            raise UserError(f"{typed}: expected {flag.expected}")
        return flag.choices[text]
    if not text.strip():
        raise UserError(f"{typed}: expected {flag.expected}, got an empty one")
    if flag.kind not in (int, float):
        return flag.kind(text)
    if len(text) > _MOST_DIGITS and text.strip(" +-0123456789_.") == "":
        raise UserError(f"{typed}: expected {flag.expected} of at most {_MOST_DIGITS} digits")
    try:
        number = flag.kind(text)
    except ValueError:
        raise UserError(f"{typed}: expected {flag.expected}") from None
    if flag.kind is float and not math.isfinite(number):
        raise UserError(f"{typed}: expected a finite number")
    return number


def _sentence(given: Given, name: str, value: Any, reason: str) -> str:
    """Return the message for a bad field, with its name as a flag."""
    flag = next((flag for flag in given.flags if flag.path[-1] == name), None)
    if flag is None:
        return f"{name}{'' if value is None else f' {_quote(value)}'}: {reason}"
    return f"{flag.name} {given.typed.get(flag.path) or _quote(value)}: {reason}"


def _nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint that names the known flag with the most similar spelling, or an empty text."""
    bare = {flag.removeprefix("--"): flag for flag in known}
    found = difflib.get_close_matches(name.lstrip("-").lower().removeprefix("no-"), bare, 1, cutoff=0.7)
    return f" (did you mean {bare[found[0]]}?)" if found else ""


def _quote(value: Any) -> str:
    """Return a value as typed, shortened, and quoted if it is empty or has spaces or unprintable characters."""
    text = str(value)
    if len(text) > _SHOWN:
        text = f"{text[:_SHOWN]}…"
    plain = text and text.isprintable() and not any(character.isspace() for character in text)
    return text if plain else repr(text)


def _looks_like_flag(token: str) -> bool:
    """Return whether a token is a flag; negative numbers and a lone dash are not."""
    return bool(_LOOKS_LIKE_FLAG.match(token)) and not _NUMBER.match(token)


def _before_end(tokens: Iterable[str]) -> Iterator[str]:
    for token in tokens:
        if token == "--":
            return
        yield token


def _print_help(command: type[Settings], base: Settings | None, prog: str) -> NoReturn:
    options = {} if base is None else {"default": base}
    pairs = () if base is not None else (tyro.conf.FlagCreatePairsOff,)
    show = cast(Callable[..., Any], tyro.cli)  # its overloads do not cover a default that may be absent
    show(command, prog=as_typed(prog), description=inspect.getdoc(command), args=["--help"], config=pairs, **options)
    sys.exit(0)
