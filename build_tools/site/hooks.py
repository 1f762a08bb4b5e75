"""Hooks of mkdocs (mkdocs.yml): the pages that are generated when the site is built, and links that leave docs/.

README.md is the home page; CONTRIBUTING.md, CHANGELOG.md and SECURITY.md are pages too. A link from a page to another
file of the repository leads to a copy of it below files/, and a link to a folder becomes its text, so that the site
needs no network and each of its links is checked.
"""

import os
import posixpath
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [
    str(ROOT),
    str(Path(__file__).resolve().parent),
]  # the checkout's own fastvgan, and the module beside this one

import reference  # noqa: E402

# Pages of the site that stand outside docs/, by their path in the repository.
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
COPIES = "files"
_sources: list[tempfile.TemporaryDirectory] = []
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_FENCE = re.compile(r"(^ *```.*?^ *```$)", re.DOTALL | re.MULTILINE)


@event_priority(100)  # before mkdocstrings reads its paths
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages into the navigation, in the place of the entries named `generated`."""
    pages = {"commands": reference.command_pages(), "python": reference.python_pages()}
    config.nav = [_fill(entry, pages) for entry in config.nav or []]
    _sources.append(tempfile.TemporaryDirectory())
    reference.copy_packages(Path(_sources[-1].name))
    config.plugins["mkdocstrings"].config["handlers"]["python"]["paths"] = [_sources[-1].name]
    return config


def on_post_build(config: MkDocsConfig) -> None:
    """Remove the copy of the sources that mkdocstrings read."""
    while _sources:
        _sources.pop().cleanup()


def _fill(entry: Any, pages: dict[str, dict[str, tuple[str, str]]]) -> Any:
    if isinstance(entry, str) and entry.startswith("generated "):
        raise PluginError(f"{entry}: give it a title")
    if not isinstance(entry, dict):
        return entry
    ((title, below),) = entry.items()
    if isinstance(below, list):
        return {title: [_fill(inner, pages) for inner in below]}
    if below.startswith("generated "):
        made = pages[below.removeprefix("generated ")]
        return {title: [{name: path} for path, (name, _) in made.items()]}
    return entry


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand outside docs/, those of the reference, and the files that pages link to."""
    for source, page in OUTSIDE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    for path, (_, text) in {**reference.command_pages(), **reference.python_pages()}.items():
        files.append(File.generated(config, path, content=text))
    copied = set()
    for file in files.documentation_pages():
        for target in _targets(file.content_string, file.src_uri):
            if _is_copied(target) and target not in copied:
                copied.add(target)
                content = (ROOT / target).read_bytes()
                files.append(File.generated(config, f"{COPIES}/{_copy_name(target)}", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in generated tables, and let links that leave docs/ lead to pages and copies of the site."""
    if page.is_homepage:
        page.meta["hide"] = ["navigation"]  # it would list this page alone
    markdown = markdown.replace("<!-- generated: presets -->", reference.presets_table())
    return _rewrite(markdown, page.file.src_uri)


def source_of(page: str) -> str:
    """Return the path in the repository that the links of a page are relative to.

    Args:
        page: path of the page in the site's sources.
    """
    return next((source for source, made in OUTSIDE.items() if made == page), f"docs/{page}")


def _targets(text: str, page: str) -> list[str]:
    """Paths in the repository that a page links to."""
    return [
        target
        for part in _FENCE.split(text)[::2]
        for _, _, link in _LINK.findall(part)
        if (target := _path(link, page))
    ]


def _path(link: str, page: str) -> str | None:
    bare = link.partition("#")[0]
    if not bare or re.match(r"[a-z][a-z+.-]*:", link):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(source_of(page)), bare))


def _is_copied(target: str) -> bool:
    return not target.startswith("docs/") and target not in OUTSIDE and (ROOT / target).is_file()


def _copy_name(target: str) -> str:
    # mkdocs would render a .md file as a page.
    return f"{target}.txt" if target.endswith(".md") else target


def _rewrite(text: str, page: str) -> str:
    def replace(match: re.Match[str]) -> str:
        mark, words, link = match.groups()
        target = _path(link, page)
        # The text of a link may be a picture, which is a link too.
        words = _LINK.sub(replace, words)
        if target is None:
            return f"{mark}[{words}]({link})"
        if (ROOT / target).is_dir():
            return words
        anchor = "".join(link.partition("#")[1:])
        if target in OUTSIDE:
            place = OUTSIDE[target]
        elif target.startswith("docs/"):
            place = target.removeprefix("docs/")
        elif (ROOT / target).is_file():
            place = f"{COPIES}/{_copy_name(target)}"
        else:
            raise PluginError(f"{source_of(page)} links to {link}, which does not exist")
        return f"{mark}[{words}]({posixpath.relpath(place, posixpath.dirname(page) or os.curdir)}{anchor})"

    parts = _FENCE.split(text)
    parts[::2] = [_LINK.sub(replace, part) for part in parts[::2]]
    return "".join(parts)
