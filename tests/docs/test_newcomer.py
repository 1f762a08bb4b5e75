"""Every block of the README and of docs/ runs, as newcomer.py describes."""

import json
import re
import subprocess
import sys

import newcomer
import pytest
import stand_in
from newcomer import ROOT, Failed, read_blocks, run_page, short_machine, shorten_python


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    with short_machine(tmp_path_factory.mktemp("newcomer")) as machine:
        yield machine


@pytest.mark.slow
@pytest.mark.parametrize("page", newcomer.pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_of_the_page_runs(machine, page):
    run_page(machine, page)


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Writes a page of blocks."""
    monkeypatch.setattr(newcomer, "ROOT", tmp_path)

    def write(text):
        path = tmp_path / "page.md"
        path.write_text(text.replace("'''", "```"), encoding="utf-8")
        return path

    return write


def test_a_block_that_fails_is_named(machine, page):
    for text in (
        "'''sh\necho one\nfalse | cat\necho two\n'''\n",
        "'''sh\nfalse && echo two\n'''\n",
        "'''python\nx = 1\n1 / (x - 1)\n'''\n",
    ):
        with pytest.raises(Failed, match=r"page\.md:2"):
            run_page(machine, page(text))


def test_folder_variables_and_names_last_for_a_page(machine, page):
    text = """'''sh
mkdir a && cd a
export COLOUR=blue
'''
'''python
x = 5
'''
<!-- not run: needs the network -->
'''sh
false
'''
'''sh
echo "$COLOUR" > colour && test "$(basename "$PWD")" = a
'''
'''python
import os
assert x == 5 and os.path.exists("colour")
'''
<!-- in a folder with: frame.png -->
'''python
import os
assert os.listdir() == ["frame.png"] and "x" not in globals()
'''
"""
    run_page(machine, page(text))


def test_a_command_that_fails_ends_its_block(machine, page):
    for command in (
        "fastvgan generate --nonsense",
        "python -c 'raise SystemExit(3)'",
        "python -c 'import os; os.abort()'",
    ):
        with pytest.raises(Failed, match="page.md:2"):
            run_page(machine, page(f"'''sh\n{command}\n'''\n"))


def test_nothing_is_skipped_unless_marked_with_a_reason(page):
    for text in (
        "'''\nls\n'''\n",
        "'''fortran\n'''\n",
        "<!-- not run: boring -->\n'''sh\n'''\n",
        "<!-- skip -->\n'''sh\n'''\n",
    ):
        with pytest.raises(ValueError, match=r"page\.md:"):
            read_blocks(page(text))


def test_no_fence_is_overlooked():
    for path in newcomer.pages():
        fences = re.findall(r"^ *```", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * len(read_blocks(path)), path


def test_commands_are_shortened():
    assert stand_in.line_of("fastvgan", ["train", "--steps", "800"])[3:7] == ["--steps", "800", "--steps", "2"]
    assert stand_in.line_of("python", ["-m", "fastvgan.evaluate"]) == ["-m", "fastvgan.evaluate", "--clips", "16"]
    assert stand_in.line_of("fastvgan", ["train", "--help"]) == ["-m", "fastvgan", "train", "--help"]
    assert stand_in.line_of("python", ["-m", "pytest"]) is None and stand_in.line_of("pip", ["install", "."]) is None
    assert shorten_python("steps = 500\nTrainer(steps=1_500)\nsteps_done = 3\n") == (
        "steps = 2\nTrainer(steps=2)\nsteps_done = 3\n"
    )


def test_the_blocks_are_those_that_markdown_finds():
    """By the parser that the site is built with."""
    import markdown

    for path in newcomer.pages():
        html = markdown.markdown(path.read_text(encoding="utf-8"), extensions=["pymdownx.superfences", "tables"])
        assert html.count('<div class="highlight">') + html.count("<pre><code") == len(read_blocks(path)), path


def test_the_runner_of_python_blocks_answers_each(tmp_path):
    texts = ["x = 1\nprint(x)", "raise SystemExit(2)", "assert x == 1"]
    lines = "".join(json.dumps({"text": text, "place": f"p{i}"}) + "\n" for i, text in enumerate(texts))
    runner = [sys.executable, str(newcomer.HERE / "block_runner.py")]
    done = subprocess.run(runner, input=lines, capture_output=True, text=True, check=True)
    failures = [json.loads(line)["failure"] for line in done.stdout.splitlines()]
    assert [bool(failure) for failure in failures] == [False, True, False] and "p1" in failures[1]
