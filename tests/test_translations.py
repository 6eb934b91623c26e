"""The Korean catalogue: how a text is found, and what stays as it is."""

from __future__ import annotations

import re

import pytest

from vistune.errors import RecipeError
from vistune.files import read_json
from vistune.translations import FOLDER, LANGUAGES, PAGES, PLACEHOLDER, catalogue, in_language, korean_texts, translate


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_every_text_in_korean(name: str) -> None:
    english, korean = catalogue(name, "en"), catalogue(name, "ko")
    assert english == read_json(FOLDER / f"{name}.en.json")
    assert list(english) == list(korean)


def test_there_is_one_catalogue() -> None:
    assert [path.name for path in FOLDER.rglob("*ko.json") if path.parent.name != "prompts"] == ["ko.json"]


def test_another_language_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"unknown language 'kr'.*did you mean 'ko'"):
        catalogue("report/labels", "kr")
    assert set(LANGUAGES) == {"en", "ko"}


@pytest.mark.parametrize(
    ("english", "korean"),
    [
        ("data.json: no such file", "data.json: 그런 파일이 없습니다"),
        ("a.json:3:image: the last question has no answer", "a.json:3:image: 마지막 질문에 답변이 없습니다"),
        ("x: no such file. Fix: check the path", "x: 그런 파일이 없습니다. 고치는 법: 경로를 확인하세요"),
        ("x: no such file. Fix: mend it", "x: 그런 파일이 없습니다. 고치는 법: mend it"),
        ("a: unknown key 'b'; a: unknown key 'c'", "a: 모르는 키입니다: 'b'; a: 모르는 키입니다: 'c'"),
        ("  stage align: projector", "  단계 align: projector"),
    ],
)
def test_a_text_is_translated_with_its_location_values_and_hint(english: str, korean: str) -> None:
    assert in_language(english, "ko") == korean
    assert in_language(english, "en") == english


def test_names_of_the_user_stay_as_they_are() -> None:
    """`image` and `data` are texts of the report too, but here they are a user's files."""
    assert translate("data: no such folder") == "data: 그런 폴더가 없습니다"
    assert translate("no image image in data") == "data에 이미지 image이(가) 없습니다"
    assert translate("something rare") is None
    assert in_language("my own line\ndata: no such file", "ko") == "my own line\ndata: 그런 파일이 없습니다"


def test_one_term_per_concept() -> None:
    """The glossary (docs/ko/glossary.md) has one Korean term for a concept; these are the others."""
    others = {"표본", "훈련", "상태점", "손실값", "주의의", "그림", "어디를 보았나", "명시하세요", "지정해 주세요"}
    found = {text: term for text in korean_texts().values() for term in others if term in text}
    assert {text: term for text, term in found.items() if not re.search("--|그림자", text)} == {}


def test_every_template_translates_its_own_message() -> None:
    """A template with little text of its own, such as `{name} is not known`, matches messages of others too."""

    def filled(text: str) -> str:
        return PLACEHOLDER.sub(lambda found: {"count": "12", "time": "3 min"}.get(found[1], f"<{found[1]}>"), text)

    for template, translation in korean_texts().items():
        if template == template.strip():  # others are ends of a message, never one of their own
            assert in_language(filled(template), "ko") == filled(translation)
