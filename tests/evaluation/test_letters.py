"""Letters from one forward pass: the likeliest of the options' letters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from vistune.evaluation import TASKS
from vistune.evaluation.conditions import plan_blocks
from vistune.evaluation.runner import ask, letters_of, read_letters
from vistune.evaluation.task import make_question
from vistune.files import write_jsonl
from vistune.generation import Assistant
from vistune.generation.sampling import Sampling, SamplingState, sample_tokens
from vistune.processor import collate
from vistune.runs.checkpoint import load


def choices(folder: Path, count: int) -> Path:
    rows = []
    for k in range(count):
        Image.new("RGB", (40, 40), (20 * k, 30, 30)).save(folder / f"{k}.png")
        row = {"question_id": k, "text": f"Which {k}?", "image": f"{k}.png", "answer": "A"}
        rows.append({**row, "match": "choice", "choices": ["a", "b", "c"][: 2 + k % 2]})
    rows.append({"question_id": "free", "text": "Colour?", "answer": "red"})
    write_jsonl(folder / "questions.jsonl", rows)
    return folder


def test_a_letter_is_the_likeliest_of_its_options(tmp_path: Path, model: Path) -> None:
    """Held against the logits of each prompt on its own."""
    task = TASKS["file"](choices(tmp_path, 6))
    assistant = Assistant(*load(model))
    known = read_letters(assistant.processor)
    assert assistant.processor.decode([*known.before, known.ids["C"]]).strip() == "C"
    [block] = plan_blocks(task.questions(), (), ("with_image",))
    rows = ask(assistant.model, assistant.processor, task, block, letters=True)
    for row in rows[:-1]:
        prompt = known.begin_reply(assistant.processor.encode_prompt(block.messages(row.question)))
        with torch.inference_mode():
            logits = assistant.model.head.logits(assistant.model(collate([prompt])))[-1]
        letters = "ABC"[: len(row.question.tags["choices"])]
        assert row.text == max(letters, key=lambda letter: logits[known.ids[letter]])
        assert row.finish_reason == "stop"
    free = ask(assistant.model, assistant.processor, task, block)
    assert rows[-1] == free[-1]  # a question without options is answered as ever


def test_only_allowed_tokens_are_said() -> None:
    logits = torch.tensor([[0.0, 5.0, 1.0, 3.0]])
    rng = torch.Generator().manual_seed(0)
    assert sample_tokens(logits, [SamplingState(Sampling(among=(0, 2)), rng, ())]) == [2]
    drawn = {
        sample_tokens(logits, [SamplingState(Sampling(temperature=5, among=(0, 2)), rng, ())])[0] for _ in range(50)
    }
    assert drawn == {0, 2}


@pytest.mark.parametrize(
    ("tags", "letters"),
    [
        ({"options": {"A": "x", "B": ""}}, "AB"),
        ({"choices": ["x", "y", "z"], "match": "choice"}, "ABC"),
        ({"choices": ["x", "y"], "match": "exact"}, ""),
        ({"choices": ("x", "y")}, "AB"),
        ({}, ""),
    ],
)
def test_which_questions_have_letters(tags: dict, letters: str) -> None:
    assert "".join(letters_of(make_question("1", "?", **tags))) == letters
