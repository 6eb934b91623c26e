"""Tiny releases in the official formats, two to four questions per benchmark, with the right answers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vistune.evaluation.tasks.mme import CATEGORIES
from vistune.files import write_json, write_jsonl


def scienceqa(folder: Path) -> dict[str, str]:
    row = {"question": "Which  one?", "choices": ["cat", "dog"], "hint": "Look.", "grade": "grade7", "topic": "pets"}
    problems = {
        "1": {**row, "answer": 1, "image": "image.png", "subject": "natural science", "split": "test"},
        "2": {**row, "answer": 0, "image": None, "subject": "social science", "split": "test", "grade": "grade2"},
        "3": {**row, "answer": 0, "image": None, "subject": "social science", "split": "train"},
    }
    write_json(folder / "problems.json", problems)
    write_json(folder / "pid_splits.json", {"train": ["3"], "test": ["1", "2"]})
    return {"1": "B", "2": "A"}


def pope(folder: Path) -> dict[str, str]:
    rows = [
        {"question_id": 1, "image": "a.jpg", "text": "Is there a cat in the image?", "label": "yes"},
        {"question_id": 2, "image": "a.jpg", "text": "Is there a dog in the image?", "label": "no"},
    ]
    for split in ("random", "popular", "adversarial"):
        write_jsonl(folder / f"coco_pope_{split}.json", rows)
    return {str(first + k): said for first in (0, 10_000_000, 20_000_000) for k, said in ((1, "Yes"), (2, "No"))}


def mme(folder: Path) -> dict[str, str]:
    for category in CATEGORIES:
        (folder / category).mkdir(parents=True)
        lines = ["Is it a cat? Please answer yes or no.\tYes", "Is it a dog?  Please answer yes or no.\tNo"]
        (folder / category / "1.txt").write_text("\n".join(lines) + "\n")
        (folder / category / "1.jpg").write_bytes(b"")
    return {f"{c}/1.jpg: Is it a {pet}?": said for c in CATEGORIES for pet, said in (("cat", "Yes"), ("dog", "No"))}


def seed(folder: Path) -> dict[str, str]:
    row = {"question": "Which?", "choice_a": "red", "choice_b": "blue", "choice_c": "green", "choice_d": "white"}
    questions = [
        {**row, "question_id": "7", "answer": "A", "data_type": "image", "data_id": "7.jpg", "question_type_id": 1},
        {**row, "question_id": "v8", "answer": "D", "data_type": "video", "data_id": "8.mp4", "question_type_id": 2},
    ]
    write_json(folder / "SEED-Bench.json", {"questions": questions, "question_type": {"Scene": 1, "Action": 2}})
    return {"7": "A", "v8": "D"}


def gqa(folder: Path) -> dict[str, str]:
    semantic = [{"operation": "select", "argument": "cat"}, {"operation": "query", "argument": "color"}]
    types = {"structural": "query", "semantic": "attr", "detailed": "x"}
    row = {"imageId": "n1", "isBalanced": True, "types": types, "semantic": semantic, "groups": {"global": "color"}}
    questions = {
        "11": {**row, "question": "What color is the cat?", "answer": "black"},
        "12": {**row, "question": "What color is the dog?", "answer": "white"},
        "13": {**row, "question": "Is it?", "answer": "yes", "isBalanced": False},
    }
    write_json(folder / "testdev_balanced_questions.json", questions)
    return {"11": "Black.", "12": "white"}


def vqav2(folder: Path) -> dict[str, str]:
    people = {1: ["yes"] * 10, 2: ["2"] * 3 + ["two"] * 4 + ["three"] * 3}
    annotations = [
        {
            "question_id": name,
            "image_id": name,
            "question_type": "is",
            "answer_type": "other",
            "multiple_choice_answer": said[-1],
            "answers": [{"answer": a, "answer_confidence": "yes", "answer_id": k} for k, a in enumerate(said, 1)],
        }
        for name, said in people.items()
    ]
    questions = [{"question_id": name, "image_id": name, "question": "Is it?"} for name in people]
    form = {"data_type": "mscoco", "data_subtype": "val2014"}
    with gzip.open(folder / "v2_mscoco_val2014_annotations.json.gz", "wt") as file:
        json.dump({**form, "annotations": annotations}, file)
    write_json(folder / "v2_OpenEnded_mscoco_val2014_questions.json", {**form, "questions": questions})
    return {"1": "yes", "2": "Two"}


def textvqa(folder: Path) -> dict[str, str]:
    rows = [
        {"image_id": "a", "question_id": 34602, "question": "what brand?", "answers": ["dakota"] * 10},
        {"image_id": "a", "question_id": 34603, "question": "what size?", "answers": ["ten"] * 10},
    ]
    write_json(folder / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": rows})
    return {"34602": "Dakota.", "34603": "10"}


def vizwiz(folder: Path) -> dict[str, str]:
    write_json(folder / "test.json", [{"image": "a.jpg", "question": "What?"}, {"image": "b.jpg", "question": "Who?"}])
    return {"0": "A dog", "1": "unanswerable"}


def file(folder: Path) -> dict[str, str]:
    rows: list[dict[str, Any]] = [
        {"question_id": 1, "text": "Which?", "answer": "red"},
        {"question_id": 2, "text": "Which?", "answer": "red", "match": "contains"},
        {"question_id": 3, "text": "Which?", "answer": "B", "match": "choice", "choices": ["red", "blue"]},
    ]
    write_jsonl(folder / "questions.jsonl", rows)
    return {"1": "Red.", "2": "A red one", "3": "정답은 B입니다"}


RELEASES: Mapping[str, Callable[[Path], dict[str, str]]] = {
    "scienceqa": scienceqa,
    "pope": pope,
    "mme": mme,
    "seed": seed,
    "gqa": gqa,
    "vqav2": vqav2,
    "textvqa": textvqa,
    "vizwiz": vizwiz,
    "file": file,
}
# What a task's main figure is when every answer is right.
FULL = {
    "scienceqa": ("acc", 100),
    "pope": ("mean_f1", 100),
    "mme": ("Perception", 2000),
    "seed": ("overall", 100),
    "gqa": ("accuracy", 100),
    "vqav2": ("overall", 100),
    "textvqa": ("accuracy", 100),
    "file": ("accuracy", 1),
}
