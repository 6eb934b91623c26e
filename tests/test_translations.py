"""Catalogues of texts: one per room and language, and messages that match a template."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import vistune
from vistune.errors import RecipeError
from vistune.files import read_json
from vistune.translations import LANGUAGES, catalogue, translate_message

ROOT = Path(vistune.__file__).parent
KOREAN = sorted(ROOT.rglob("*.ko.json"))


@pytest.mark.parametrize("path", KOREAN, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_catalogue_is_found_by_its_room_and_name(path: Path) -> None:
    name = str(path.relative_to(ROOT)).removesuffix(".ko.json")
    assert catalogue(name, "ko") == read_json(path)
    if path.with_name(path.name.replace(".ko.", ".en.")).is_file():
        english, korean = catalogue(name, "en"), catalogue(name, "ko")
        assert list(english) == list(korean)
    else:
        assert catalogue(name, "en") == {}, "the keys are the English texts"


def test_another_language_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"unknown language 'kr'.*did you mean 'ko'"):
        catalogue("report/labels", "kr")
    assert set(LANGUAGES) == {"en", "ko"}


def test_a_message_is_translated_by_the_template_that_it_matches() -> None:
    assert translate_message("data.json: no such file", "cli/errors", "ko") == "data.json: 그런 파일이 없습니다"
    assert translate_message("something rare", "cli/errors", "ko") is None
    assert translate_message("data.json: no such file", "cli/errors", "en") is None


@pytest.mark.parametrize("name", ["cli/errors", "cli/messages"])
def test_every_template_translates_its_own_message(name: str) -> None:
    """A template with little text of its own, such as `{name} is not known`, matches messages of others too."""

    def filled(text: str) -> str:
        return re.sub(r"\{(\w+)\}", r"<\1>", text)

    for template, translation in catalogue(name, "ko").items():
        assert translate_message(filled(template), name, "ko") == filled(translation)
