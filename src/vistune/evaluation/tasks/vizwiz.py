"""VizWiz-VQA: questions of blind people about their photographs. https://arxiv.org/abs/1802.08218

The test answers are with the server: this writes its upload, and counts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from vistune.errors import DataError
from vistune.evaluation.parsing.vqa_text import evalai_form
from vistune.evaluation.release import field_of, id_in, image_folder, matching, release_json, release_lines
from vistune.evaluation.task import SHORT, Benchmark, Facts, Marked, Reply, ask
from vistune.types import Question

UNANSWERABLE = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."


class VizWiz(Benchmark):
    """No figure without the server; the answers in EvalAI's form."""

    facts = Facts(
        about="8,000 test questions; the upload for the evaluation server",
        files=("test.json (or LLaVA's llava_test.jsonl)", "test/ (pictures)"),
        source="https://vizwiz.org/tasks-and-datasets/vqa/",
        licence="CC BY 4.0",
        size="about 3.5 GB with the test pictures",
        paper="https://arxiv.org/abs/1802.08218",
    )

    def questions(self) -> Sequence[Question]:
        images = image_folder(self.folder, "test")
        if listed := matching(self.folder, "test.json"):
            listed_rows = field_of({"test": release_json(listed[0])}, "test", list, str(listed[0]))
            rows = [(str(k), row) for k, row in enumerate(listed_rows)]
            path, suffix = listed[0], UNANSWERABLE + SHORT
        elif listed := matching(self.folder, "llava_test*.jsonl"):
            rows = [(id_in(row, "question_id", place), row) for place, row in release_lines(listed[0])]
            path, suffix = listed[0], ""
        else:
            raise DataError(
                f"{self.folder / 'test.json'}: no such file, nor llava_test*.jsonl",
                "`vistune evaluate --list` says what to download and from where",
            )
        text = "question" if suffix else "text"
        found = []
        for name, row in rows:
            place = f"{path}:{name}"
            image = field_of(row, "image", str, place)
            prompt = field_of(row, text, str, place) + suffix
            found.append(ask(name, prompt, images / image, origin=place, image=image))
        return found

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        return {}

    def submission(self, rows: Sequence[Reply]) -> tuple[str, bytes]:
        """The server's list, in the order of the questions; a missing reply as an empty answer."""
        listed = [{"image": row.question.tags["image"], "answer": evalai_form(row.text or "")} for row in rows]
        return "vizwiz_upload.json", json.dumps(listed).encode()
