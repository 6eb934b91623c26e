"""How long scoring VQAv2's whole validation split takes on one core, and how much memory.

python benchmarks/score_vqa.py [--questions 214354] [--seed 0]

Made-up annotations in the release's form: ten people a question, of whom a third of the questions unite all and the
rest scatter over near forms of a few answers, with the signs and spellings that the text processor has to undo. The
predictions are such forms too. The scorer runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import resident

from vistune.evaluation import TASKS, score

KINDS = ("is the", "how many", "what color is the", "what is", "why is the")
TYPES = {"is the": "yes/no", "how many": "number"}
FORMS = ("{}", "{}.", "a {}", "The {}", "{}, yes", "{}!", "it's {}", "dont know {}", "{}\n", "2 {}-s", "1,000 {}")
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprtvz" for vowel in "aeiou"]


def word(chance: random.Random) -> str:
    """One of some tens of thousands, a few of them far more often than the rest."""
    number = int(len(SYLLABLES) ** 2.5 ** chance.random())
    found = ""
    while number:
        number, rest = divmod(number, len(SYLLABLES))
        found += SYLLABLES[rest]
    return found


def write_release(folder: Path, questions: int, seed: int) -> None:
    """Both files of the release, and predictions.json."""
    chance = random.Random(seed)
    asked, annotated, said = [], [], []
    for number in range(questions):
        kind = KINDS[number % len(KINDS)]
        gold = chance.choice(("yes", "no")) if kind in TYPES and kind == "is the" else word(chance)
        alike = chance.random() < 1 / 3
        people = [
            gold if alike or chance.random() < 0.5 else chance.choice(FORMS).format(word(chance)) for _ in range(10)
        ]
        answers = [
            {"answer": text, "answer_confidence": "yes", "answer_id": k} for k, text in enumerate(people, start=1)
        ]
        name, image = 10 * number, number // 5
        asked.append({"image_id": image, "question": f"{kind} {word(chance)}?", "question_id": name})
        annotated.append(
            {
                "question_type": kind,
                "multiple_choice_answer": gold,
                "answers": answers,
                "image_id": image,
                "answer_type": TYPES.get(kind, "other"),
                "question_id": name,
            }
        )
        said.append({"question_id": name, "answer": chance.choice(FORMS).format(gold)})
    form = {"data_type": "mscoco", "data_subtype": "val2014"}
    write(folder / "v2_OpenEnded_mscoco_val2014_questions.json", {**form, "questions": asked})
    write(folder / "v2_mscoco_val2014_annotations.json", {**form, "annotations": annotated})
    write(folder / "predictions.json", said)


def write(path: Path, value: Any) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file)


def measure(folder: Path, results: Any) -> None:
    began = time.perf_counter()
    found = score("vqav2", TASKS["vqav2"](folder), folder / "predictions.json")
    seconds = time.perf_counter() - began
    results.put((seconds, resident() // 2**20, found.to_dict()["metrics"]))


def main() -> None:
    parser = argparse.ArgumentParser(description="time and memory of the VQAv2 scorer")
    parser.add_argument("--questions", type=int, default=214_354)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        maker = context.Process(target=write_release, args=(folder, wanted.questions, wanted.seed))
        maker.start()
        maker.join()
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        results = context.Queue()
        scorer = context.Process(target=measure, args=(folder, results))
        scorer.start()
        seconds, megabytes, metrics = results.get()
        scorer.join()
    print(
        f"{wanted.questions} questions, {size:.0f} MB of files: {seconds:.1f} s, peak memory {megabytes} MB, {metrics}"
    )


if __name__ == "__main__":
    main()
