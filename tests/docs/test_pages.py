"""The README is short, links lead somewhere, flags exist, and every page is in the navigation."""

import re
import sys

import markdown
import pytest
import yaml
from newcomer import ROOT

sys.path.insert(0, str(ROOT / "build_tools" / "site"))
import reference  # noqa: E402

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
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
    "--index-url",
}
_COMMAND = re.compile(r"(?:^|\s)(?:python3? -m |-m )?fastvgan[ .]([a-z]+)\b([^|;&#\n]*)")
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


def _flags():
    """Every flag of every command, with the opposites of those without a value."""
    flags = [flag for command in reference.commands().values() for flag in reference.flags_of(command)]
    return {flag.name for flag in flags} | {f"--no-{flag.name[2:]}" for flag in flags if flag.kind is bool}


@pytest.mark.parametrize("page", PAGES, ids=_names)
def test_every_flag_exists(page):
    known = _flags() | {"--help", "--version"}
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    alone = re.findall(r"`(--[^`\n]+)`", text)
    commands = [match[2] for match in _COMMAND.finditer(text.replace("`", " | "))]
    named = {flag for part in alone for flag in _FLAG.findall(part)} - FOREIGN
    named |= {flag for part in commands for flag in _FLAG.findall(part)}
    assert not named - known, sorted(named - known)


def test_a_flag_that_does_not_exist_is_found(tmp_path):
    page = tmp_path / "page.md"
    for text, flag in (
        ("`--bathc-size 3`", "--bathc-size"),
        ("```sh\nfastvgan info --json\nfastvgan train --steps 3 \\\n --stpes 4\n```", "--stpes"),
        ("use `python -m fastvgan.generate --seeds 3`", "--seeds"),
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
