"""SEED-Bench (v1): one of four choices about images and video frames. https://arxiv.org/abs/2307.16125

The letter protocol of LLaVA-1.5: the reply is the answer's letter and nothing else. The benchmark's own protocol ranks
the choices by likelihood and gives other figures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from vistune.evaluation.parsing import choice_of
from vistune.evaluation.release import Fields, field_of, find_files, id_in, image_folder, matching, release_map
from vistune.evaluation.task import (
    BOTH,
    LENIENT,
    LETTER,
    Benchmark,
    Facts,
    Marked,
    Reply,
    Table,
    Upload,
    make_question,
    mean,
    mean_by,
)
from vistune.types import Question

LETTERS = "ABCD"


class Seed(Benchmark):
    """The reply is the capital letter alone."""

    facts = Facts(
        about="14,233 questions on images and 5,009 on videos (LLaVA: their middle frame)",
        files=("SEED-Bench.json", "SEED-Bench-image/", "SEED-Bench-video-image/ (one frame a video, DATA_ID.png)"),
        source="https://github.com/AILab-CVC/SEED-Bench",
        licence="CC BY-NC 4.0; videos: their owners' terms",
        size="about 30 GB; the images alone 4 GB",
        paper="https://arxiv.org/abs/2307.16125",
    )
    rules = BOTH
    prediction_fields = frozenset({"gt_answer", "q_type_id", "question_type_id", "data_type"})  # of its leaderboard

    def questions(self) -> Sequence[Question]:
        path = (matching(self.folder, "SEED-Bench.json") or find_files(self.folder, ["SEED-Bench*.json"]))[0]
        release = release_map(path)
        named = field_of({"question_type": {}, **release}, "question_type", dict, str(path))
        types = {number: name for name, number in named.items()}
        rows = field_of(release, "questions", list, str(path))
        return [self._question(f"{path}:question {k}", row, types) for k, row in enumerate(rows, start=1)]

    def _question(self, location: str, row: Fields, types: Mapping[int, str]) -> Question:
        name = id_in(row, "question_id", location)
        kind = row.get("data_type", "video" if name.startswith("v") else "image")
        options = {
            letter: str(row[f"choice_{letter.lower()}"]) for letter in LETTERS if f"choice_{letter.lower()}" in row
        }
        lines = [str(row.get("question", "")), *(f"{letter}. {text}" for letter, text in options.items())]
        data = str(row.get("data_id", name))
        if kind == "video":
            image = image_folder(self.folder, "SEED-Bench-video-image") / f"{Path(data).stem}.png"
        else:
            image = image_folder(self.folder, "SEED-Bench-image") / data
        ability = types.get(row.get("question_type_id", 0))
        answer = field_of(row, "answer", str, location)
        tags = {"kind": kind, "ability": ability, "options": options or dict.fromkeys(LETTERS, "")}
        return make_question(name, "\n".join(lines) + LETTER, image, answer=answer, origin=location, **tags)

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        options = question.tags["options"]
        if reply in options:
            return reply
        return choice_of(reply, options) if rule == LENIENT else None

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        return {"overall": mean(rows), **{kind: value for kind, (value, _) in mean_by(rows, "kind").items()}}

    def tables(self, rows: Sequence[Marked]) -> dict[str, Table]:
        return {"kind": mean_by(rows, "kind"), "ability": mean_by(rows, "ability")}

    def submission(self, rows: Sequence[Reply]) -> Upload:
        """Return the leaderboard's lines."""
        lines = [json.dumps({"question_id": row.question.id, "prediction": row.text or ""}) for row in rows]
        return Upload("seed_submission.jsonl", ("\n".join(lines) + "\n").encode())
