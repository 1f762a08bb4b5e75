"""The README is short, links lead somewhere, flags, extras and files exist, and every page is in the navigation."""

import functools
import re
import sys
import tomllib

import markdown
import pytest
import yaml
from newcomer import ROOT

sys.path.insert(0, str(ROOT / "build_tools" / "site"))
import reference  # noqa: E402

FOLDERS = ("bench", "build_tools", "csrc", "docs", "examples", "fastvgan", "kernels", "tests")
PAGES = [*sorted(ROOT.glob("*.md")), *(page for folder in FOLDERS for page in sorted((ROOT / folder).rglob("*.md")))]
# Flags of other programs that pages name alone: torchrun's, Slurm's, pytest-benchmark's, bench/'s, pip's.
FOREIGN = {
    "--standalone",
    "--nproc-per-node",
    "--nnodes",
    "--max-restarts",
    "--signal",
    "--benchmark-only",
    "--benchmark-json",
    "--benchmark-verbose",
    "--full",
    "--from",
    "--markdown",
    "--norms",
    "--objectives",
    "--index-url",
}
_COMMAND = re.compile(r"(?:^|\s)(?:python3? -m |-m )?fastvgan[ .]([a-z]+)\b([^|;&#\n]*)")
_PATH = re.compile(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w./*-]+")
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")


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


@functools.cache
def _flags():
    """The flags of each command, with the opposites of those without a value."""
    known = {}
    for name, arguments in reference.commands().items():
        flags = reference.flags_of(arguments)
        opposites = {f"--no-{flag.name[2:]}" for flag in flags if flag.kind is bool}
        known[name] = {flag.name for flag in flags} | opposites | {"--help"}
    return known


@pytest.mark.parametrize("page", PAGES, ids=_names)
def test_every_flag_exists(page):
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    alone = {flag for part in re.findall(r"`(--[^`\n]+)`", text) for flag in _FLAG.findall(part)}
    unknown = alone - FOREIGN - {"--version"} - set().union(*_flags().values())
    for command, line in _COMMAND.findall(text.replace("`", " | ")):
        unknown |= set(_FLAG.findall(line)) - _flags().get(command, set())
    assert not unknown, sorted(unknown)


@pytest.mark.parametrize("page", PAGES, ids=_names)
def test_extras_exist(page):
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = re.findall(r"(?:[\"' ]\.|fastvgan)\[([a-z,-]+)\]", page.read_text(encoding="utf-8"))
    assert not {extra for part in named for extra in part.split(",")} - set(known)


@pytest.mark.parametrize("page", PAGES, ids=_names)
def test_files_of_the_repository_exist(page):
    spans = re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))
    paths = [path.rstrip(".") for span in spans for path in _PATH.findall(span) if "NAME" not in path]
    missing = [path for path in paths if not any(ROOT.glob(path))]
    assert not missing, missing


def test_a_flag_that_does_not_exist_is_found(tmp_path):
    page = tmp_path / "page.md"
    for text, flag in (
        ("`--bathc-size 3`", "--bathc-size"),
        ("```sh\nfastvgan info --json\nfastvgan train --steps 3 \\\n --stpes 4\n```", "--stpes"),
        ("use `python -m fastvgan.generate --seeds 3`", "--seeds"),
        ("`fastvgan info --steps 3`", "--steps"),  # a flag of another command
    ):
        page.write_text(text)
        with pytest.raises(AssertionError, match=flag):
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
