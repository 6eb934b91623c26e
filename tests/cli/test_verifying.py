"""The table of `verify` in the user's language."""

from __future__ import annotations

from pathlib import Path

import pytest

from vistune.cli.console import stdout
from vistune.cli.log import using
from vistune.cli.settings import Settings
from vistune.cli.verifying import print_result
from vistune.interop.certificate import STAGES
from vistune.interop.verify import VerifyResult, WeightReport
from vistune.interop.verify_stages import DIFFERS, EQUAL, KNOWN, NOT_JUDGED, UNSEEN, StageResult
from vistune.translations import korean_texts

STATUSES = (EQUAL, DIFFERS, KNOWN, UNSEEN, NOT_JUDGED)
DETAIL = "picture: features differ by 3 %, at most 0.2 % is rounding"


def test_every_stage_and_every_status_has_a_korean_text() -> None:
    assert {*STAGES, *STATUSES} <= korean_texts().keys()


@pytest.mark.parametrize(
    ("language", "texts"),
    [
        ("en", ("tower", "differs", DETAIL, "2 renamed, 1 missing", "torch: 2.0 when exported, not installed now")),
        ("ko", ("비전 타워", "다름", "picture: 특징이 3 % 다릅니다. 반올림 오차는 0.2 %까지입니다",
                "이름이 바뀐 것 2개, 없어서 새로 초기화한 것 1개", "torch: 내보낼 때 2.0, 지금 설치되지 않음")),
    ],
)  # fmt: skip
def test_the_table_is_in_the_users_language(
    language: str, texts: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdout, "width", 200)
    result = VerifyResult(
        Path("hf"),
        "transformers",
        (StageResult("tower", DIFFERS, DETAIL),),
        weights=WeightReport(2, ("model.norm.weight",), (), ()),
        versions={"torch": ("2.0", "not installed")},
    )
    with using(Settings(language=language)):
        print_result(result)
    printed = capsys.readouterr().out
    assert [text for text in texts if text not in printed] == []
