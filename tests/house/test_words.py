"""The words of the sources: patterns that have a plainer English form, and names that are participles alone."""

import ast
import re
from pathlib import Path

import pytest
from sources import ROOT, Text, functions, modules, parse, python_files, texts

# Patterns that the sources avoid, with the plain form. Each was a habit here that a reader of PyTorch or Triton would
# stumble over; a review that finds another adds it.
_UNITS = "row|clip|step|line|sample|channel|frame|file|batch|process|dimension|launch|call"
DIALECT = {
    r"\b(un)?told\b(?! apart)": "given, passed, reported, known",
    r"\banew\b": "again, re-…",
    r"\b(taken|took|takes?) up again\b": "resumed",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bsuch that (it|they) (is|are)\b": "split the sentence",
    r"\bthere (is|are|was|were) none\b": "name what is missing: no GPU, no extension",
    r"\bthose of which\b|\bof which there\b": "split the sentence",
    r"\bit is the (host|device|user|caller)'s\b": "runs on the host",
    r"\bof ((the host|(stock )?torch|PyTorch)'s|ours|theirs|(its|their) own)(?=[.,;:)]|$)": "put the owner first",
    rf"\b(an?|one) \w+(-\w+)? an? ({_UNITS})\b": "one … per …",
    r"\b(a|an) \w+ each(?=[.,;:)]|$)": "one … per …",
    r"\bto be had\b": "available",
    r"\bfor ever\b": "forever",
    r"\bhere and now\b": "at once",
    r"\btakes? (no|a|their|its)? ?part\b": "is used, is skipped",
    r"\bwith patience\b|\bpatience with\b": "retries",
    r"\bdo(es)? without\b": "does not need",
    r"\bin (its|their) place\b": "instead",
    r"\bwhat (differs|stands|lies|comes) (from|in|on|before|after|beside)\b": "name the thing",
    r"\bis (what|where) .{1,40} (is|are) (told|said)\b": "name the thing",
    r"\ba run whose every\b|\bwhose every\b": "say who does what",
    r"\bgoes on\b|\bgo on (with|where|as)\b|\bgoing on with\b": "continues, resumes",
    r"\bof (one|a) problem as small\b|\bas small\b": "this small",
    r"\bno \w+ of (ours|its|theirs)\b": "none of our …",
    r"\bthan otherwise\b|\botherwise than\b": "name the other case",
    r"\bhow (large|much|many|long) (it|they|that) (is|are) is\b": "name the quantity",
    r"\ball the same\b": "anyway",
    r"\bas it (was|is) (before|found|given)\b": "unchanged",
    r"\bare to be\b|\bis to be\b": "must be, should be",
    r"\bwhoever\b": "name the person: the user, the caller",
    r"\b(thereby|therein|whereby|wherein|hitherto|henceforth|likewise)\b": "a plain word",
    r"; gives\b|^Gives\b|, gives\b": "returns",
    r"\bdoes so\b|\bdo so\b": "repeat the verb",
    r"\bnot so many\b": "fewer",
    r"\bsaid of\b": "known about, recorded for",
    r"\bjudged\b": "checked",
    r"\b(the )?like of\b": "such as",
}
_DIALECT = [(re.compile(pattern, re.IGNORECASE | re.MULTILINE), instead) for pattern, instead in DIALECT.items()]
# Operations and layers keep the names that users know.
PUBLIC = {"fused_conv"}
_HERE = Path(__file__).parent
# Words that are participles of irregular verbs; regular ones end in "ed".
_IRREGULAR = "told made found given shown taken drawn built written hidden held kept left lost sent spent said".split()


def _findings(text: Text) -> list[str]:
    # Line breaks of wrapped prose hide no phrase.
    words = re.sub(r"\s*\n\s*#?\s*", " ", text.words) if text.kind != "comment" else text.words
    return [
        f"{text.place}: {match.group(0)!r} ({text.kind}); write: {instead}"
        for pattern, instead in _DIALECT
        for match in pattern.finditer(words)
    ]


def _c_comments(path: Path) -> list[Text]:
    return [
        Text(path, number, "comment", line.partition("//")[2])
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if "//" in line
    ]


def _prose(path: Path) -> list[Text]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Text(path, number, "prose", line) for number, line in enumerate(lines, 1)]


def _report(found: list[str]) -> str:
    return f"{len(found)} places:\n" + "\n".join(found)


@pytest.mark.parametrize("folder", ["fastvgan", "kernels", "bench", "build_tools", "tests"])
def test_python_sources_are_in_plain_english(folder):
    files = [path for path in python_files(folder) if path.parent != _HERE]
    assert files
    found = [finding for path in files for text in texts(path) for finding in _findings(text)]
    assert not found, _report(found)


def test_compiled_sources_are_in_plain_english():
    files = [
        path for path in sorted((ROOT / "csrc").rglob("*")) if path.suffix in (".cpp", ".h", ".inc", ".cu", ".cuh")
    ]
    assert len(files) > 20
    found = [finding for path in files for text in _c_comments(path) for finding in _findings(text)]
    assert not found, _report(found)


def test_documents_are_in_plain_english():
    files = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
    assert len(files) > 4
    found = [finding for path in files for text in _prose(path) for finding in _findings(text)]
    assert not found, _report(found)


@pytest.mark.parametrize(
    "sentence",
    [
        "What differs from step to step",
        "a row a clip, a line a sample",
        "compiled operations cannot serve, so others do in their place",
        "the run goes on",
        "is made anew",
        "unless told",
        "a folder each",
    ],
)
def test_the_dialect_is_found(sentence):
    assert _findings(Text(ROOT / "README.md", 1, "prose", sentence))


@pytest.mark.parametrize(
    "sentence", ["One row per clip, one line per sample.", "Sets this step's EMA decay.", "The run resumes at step 5."]
)
def test_plain_english_is_not_found(sentence):
    assert not _findings(Text(ROOT / "README.md", 1, "prose", sentence))


def test_no_function_is_named_by_a_participle():
    found = []
    benchmarks = {str(path.relative_to(ROOT)): path for path in python_files("bench")}
    for module, path in {**modules(), **benchmarks}.items():
        for function in functions(parse(path)):
            words = function.node.name.strip("_").split("_")
            is_property = any("property" in ast.unparse(one) for one in function.node.decorator_list)
            if (
                not is_property
                and function.node.name not in PUBLIC
                and (words[0] in _IRREGULAR or re.fullmatch(r"[a-z]{2,}(?<!e)ed", words[0]))
            ):
                found.append(f"{module}.{function.name}")
    assert not found, _report(found)
