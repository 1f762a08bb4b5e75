"""docs/how-to/troubleshooting.md quotes messages: each heading's words occur in the sources as a message."""

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "troubleshooting.md"
_GAP = "…"  # what varies in a message


def quoted_messages() -> list[str]:
    headings = re.findall(r"^### (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    messages = [message for heading in headings for message in re.findall(r"`([^`]+)`", heading)]
    return [*messages, "losses or gradients are not finite"]


@functools.cache
def source_messages() -> list[str]:
    """All strings of the package, with a gap for each value that is put into them."""
    found = []
    for folder in ("fastvgan", "kernels"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else _GAP for part in node.values]
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(re.sub(r"%[.\d]*[a-z]|\{\w*\}", _GAP, node.value))
    return found


def pattern(message: str) -> re.Pattern:
    """A regular expression of the message's fixed parts in their order."""
    parts = [part for part in (part.strip(" :;,()") for part in message.split(_GAP)) if part]
    assert parts, message
    return re.compile(".*".join(map(re.escape, parts)), re.DOTALL)


def test_there_are_messages():
    assert len(quoted_messages()) > 40


@pytest.mark.parametrize("message", quoted_messages())
def test_message_occurs_in_the_sources(message):
    assert any(map(pattern(message).search, source_messages()))
