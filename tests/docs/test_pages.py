"""The README is short, links lead somewhere, flags exist, and every page is in the navigation."""

import re
import sys

import markdown
import pytest
import yaml
from newcomer import ROOT, read_blocks

sys.path.insert(0, str(ROOT / "build_tools" / "site"))
import reference  # noqa: E402

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Flags of other programs, by the word that begins their command.
OTHERS = (
    "pip",
    "pytest",
    "torchrun",
    "srun",
    "docker",
    "git",
    "uv",
    "mkdocs",
    "pre-commit",
    "bench/",
    "tests/",
    "setup.py",
)
OTHERS += ("build_tools/", "nvcc", "ruff", "export", "scontrol", "#SBATCH")


def _names(path):
    return path.relative_to(ROOT).as_posix()


def test_readme_has_at_most_120_lines():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert 'pip install -c constraints.txt ".[test]" && python -m pytest' in text  # .ci/run installs by it


def _ids(path):
    """Anchors of a page, as GitHub and mkdocs make them."""
    html = markdown.markdown(
        path.read_text(encoding="utf-8"), extensions=["toc", "pymdownx.superfences", "tables", "attr_list"]
    )
    return set(re.findall(r'id="([^"]+)"', html))


@pytest.mark.parametrize("page", PAGES, ids=_names)
def test_relative_links_lead_to_files_and_anchors(page):
    html = markdown.markdown(page.read_text(encoding="utf-8"), extensions=["pymdownx.superfences", "tables"])
    broken = []
    for link in re.findall(r'(?:href|src)="([^"]+)"', html):
        if re.match(r"[a-z]+:", link):
            continue
        bare, _, anchor = link.partition("#")
        target = (page.parent / bare).resolve() if bare else page
        if not target.exists() or not target.is_relative_to(ROOT):
            broken.append(link)
        elif anchor and anchor not in _ids(target):
            broken.append(link)
    assert not broken, broken


def _flags():
    """Every flag of every command, with the opposites of those without a value."""
    flags = [flag for command in reference.commands().values() for flag in reference.flags_of(command)]
    return {flag.name for flag in flags} | {f"--no-{flag.name[2:]}" for flag in flags if flag.kind is bool}


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CONTRIBUTING.md"], ids=_names)
def test_every_flag_exists(page):
    known = _flags() | {"--help", "--version"}
    text = page.read_text(encoding="utf-8")
    code = [
        part for part in re.findall(r"`([^`\n]+)`", text) if part.startswith(("--", "fastvgan", "python -m fastvgan"))
    ]
    blocks = read_blocks(page) if page.parent.name in ("tutorials", "how-to") or page.name == "README.md" else []
    code += [line for block in blocks for line in block.text.replace("\\\n", " ").splitlines()]
    unknown = set()
    for line in code:
        for command in re.split(r"&&|\|\||[;|]", line.partition(" #")[0]):
            if any(word in command for word in OTHERS) and "fastvgan.train" not in command.partition("-m ")[2]:
                continue
            command = command.partition("-m fastvgan.")[2] if "torchrun" in command else command
            unknown |= {flag for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", command) if flag not in known}
    assert not unknown, sorted(unknown)


def test_a_flag_that_does_not_exist_is_found(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("`--bathc-size 3` and `fastvgan train --steps 3`")
    with pytest.raises(AssertionError, match="--bathc-size"):
        test_every_flag_exists(page)


class _Loader(yaml.SafeLoader):
    """mkdocs.yml may name Python objects."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def _in_navigation(part):
    if isinstance(part, str):
        return {part}
    return set().union(*map(_in_navigation, part.values() if isinstance(part, dict) else part))


def test_every_page_is_in_the_navigation():
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)
    listed = _in_navigation(settings["nav"])
    there = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    outside = {"index.md", "contributing.md", "changelog.md", "security.md"}
    assert {page for page in listed if page.endswith(".md")} - outside == there


def test_presets_in_prose_are_those_of_the_code():
    from fastvgan.runs.presets import PRESETS

    text = (ROOT / "docs" / "reference" / "models.md").read_text(encoding="utf-8")
    table = text.partition("## Presets")[2].partition("<!-- generated")[0]
    named = {
        name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)
    }
    assert named == set(PRESETS)
