"""A missing extra is named with its remedy; a broken module keeps its own error."""

import json

import pytest

from gradloom_host.missing import MissingExtraError, require


def test_returns_the_module_itself():
    assert require("json.decoder", "train") is json.decoder


@pytest.mark.parametrize("module", ["no_such_module", "no_such_module.part", "json.no_such_part"])
def test_names_the_extra(module):
    with pytest.raises(MissingExtraError) as caught:
        require(module, "synth")
    assert str(caught.value) == (
        f"Module {module!r} is not installed; run: pip install 'gradloom[synth]'"
    )
    assert caught.value.name == module


def test_keeps_the_error_of_an_installed_module(tmp_path, monkeypatch):
    (tmp_path / "installed_but_broken.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency") as caught:
        require("installed_but_broken", "train")
    assert not isinstance(caught.value, MissingExtraError)
