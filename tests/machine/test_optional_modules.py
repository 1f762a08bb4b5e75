"""Missing modules are named with their extra; broken ones keep their own error."""

import sys

import pytest

from fastvgan.errors import UserError
from fastvgan.machine.optional import check_installed, install_command, is_installed, require


def test_installed_modules_are_found_and_imported():
    assert is_installed("json") and is_installed("xml.dom")
    check_installed("json", "x", "this")
    assert require("xml.dom", "x", "this") is sys.modules["xml.dom"]


@pytest.mark.parametrize("module", ["no_such_module", "no_such_module.below"])
def test_a_missing_module_is_bad_input(module):
    assert not is_installed(module)
    sentence = r'^--flag needs the package no_such_module: pip install "fastvgan\[video\]", or omit it$'
    for ask in (require, check_installed):
        with pytest.raises(UserError, match=sentence if ask is require or "." not in module else "needs the package"):
            ask(module, "video", "--flag", "omit it")
    assert install_command("demo") == 'pip install "fastvgan[demo]"'


def test_a_module_that_was_disabled_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "colorsys", None)
    assert not is_installed("colorsys")
    with pytest.raises(UserError, match="this needs the package colorsys"):
        require("colorsys", "x", "this")


def test_the_error_of_a_broken_module_is_raised(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("import no_such_module")
    monkeypatch.syspath_prepend(tmp_path)
    assert is_installed("broken_module")
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_module'"):
        require("broken_module", "x", "this")
