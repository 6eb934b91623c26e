"""What the page of a run says of its evaluations: figures with intervals and gaps, answers, and the worst mistakes.

evals/NAME.json, NAME.predictions.jsonl, descriptions.json · samples.jsonl (answers while it learnt)
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vistune.files import read_json, read_json_if_there, read_jsonl
from vistune.report.images import Thumbnail, spread, thumbnail

ANSWERS, DESCRIPTIONS, MISTAKES, CONFUSIONS = 20, 4, 12, 10
WORST = 4  # kinds of questions whose mistakes are shown
FIGURES = 3  # of a task's metrics that the table shows; all stand below it
TIMES = 6  # of a question's answers over training
Row = Mapping[str, Any]


def results(run: Path) -> dict[str, Row]:
    """By name: what `evaluate` kept of each task."""
    found = {path.stem: read_json(path) for path in sorted((run / "evals").glob("*.json"))}
    return {name: told for name, told in found.items() if isinstance(told, dict) and "metrics" in told}


def evaluations(found: Mapping[str, Row]) -> list[dict[str, Any]] | None:
    """A row for each task, and its tables by question type and language."""
    rows = []
    for name, told in found.items():
        metrics = list(told["metrics"].items())
        groups = {tag: table for tag in ("type", "language") if len(table := told.get(f"by_{tag}") or {}) > 1}
        rows.append({**told, "name": name, "shown": metrics[:FIGURES], "all": metrics, "groups": groups})
    return rows or None


class Answers:
    """What the model said to each question with its picture, and what it had said after earlier stages."""

    def __init__(self, run: Path, found: Mapping[str, Row], earlier: Sequence[str], seed: int) -> None:
        """Files that bear the name of an `earlier` stage are of that stage; they stand alone only without others."""
        files = {
            path.name.removesuffix(".predictions.jsonl"): path
            for path in sorted((run / "evals").glob("*.predictions.jsonl"))
        }
        self.run, self.seed = run, seed
        said = {name: _seen(name, path) for name, path in files.items()}
        final = {name: rows for name, rows in said.items() if name not in earlier}
        self.before = {
            stage: {(_task(found, stage), row["question_id"]): row["text"] for row in said[stage]}
            for stage in earlier
            if stage in said and final
        }
        # Answers that a server or a judge has to mark are neither right nor wrong here.
        judged = {name for name, told in found.items() if not told["metrics"]}
        self.rows = [row for name, rows in (final or said).items() if name not in judged for row in rows]
        self.tasks = {name: _task(found, name) for name in said}

    def shown(self) -> list[dict[str, Any]] | None:
        """Half right and half wrong where there are that many; every language in turn."""
        right, wrong = ([row for row in self.rows if bool(row.get("right")) is verdict] for verdict in (True, False))
        chosen: list[Row] = []
        for side, other in ((right, wrong), (wrong, right)):
            wanted = max(ANSWERS // 2, ANSWERS - len(other))
            chosen += spread(side, wanted, group=lambda row: row.get("language"), seed=self.seed)
        return [self._card(row) for row in chosen] or None

    def mistakes(self) -> dict[str, Any] | None:
        """Wrong answers of the groups with the largest share of them, the most frequent confusion of each first."""
        groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in self.rows:
            groups[row["source"], str(row.get("type", ""))].append(row)
        wrong = {key: [row for row in rows if not row.get("right")] for key, rows in groups.items()}
        worst = sorted((key for key in groups if wrong[key]), key=lambda key: -len(wrong[key]) / len(groups[key]))
        worst = worst[:WORST]
        queues = []
        for key in worst:
            counts = Counter(map(_confusion, wrong[key]))
            share = {"group": key, "wrong": len(wrong[key]), "of": len(groups[key])}
            firsts = {_confusion(row): row for row in reversed(wrong[key])}  # one picture a confusion
            queues.append([{**self._card(firsts[pair]), **share, "times": times}
                           for pair, times in counts.most_common(MISTAKES)])  # fmt: skip
        cards = [queue[depth] for depth in range(MISTAKES) for queue in queues if depth < len(queue)][:MISTAKES]
        together = Counter(_confusion(row) for rows in wrong.values() for row in rows)
        cards.sort(key=lambda card: -card["wrong"] / card["of"])
        return {"cards": cards, "confusions": together.most_common(CONFUSIONS)} if cards else None

    def _card(self, row: Row) -> dict[str, Any]:
        key = self.tasks[row["source"]], row["question_id"]
        before = [(stage, said[key]) for stage, said in self.before.items() if key in said]
        return {**row, "before": before, "thumbnail": image(row.get("image"), self.run)}


def _seen(name: str, path: Path) -> list[dict[str, Any]]:
    rows = [{"source": name, **row} for _, row in read_jsonl(path)]
    return [row for row in rows if row.get("condition", "with_image") == "with_image"]


def _task(found: Mapping[str, Row], name: str) -> str:
    return str(found[name].get("task", name)) if name in found else name


def _confusion(row: Row) -> tuple[str, str]:
    return str(row.get("answer", "")), str(row.get("text", "")).strip()


def image(name: str | None, run: Path) -> Thumbnail:
    """A picture where its path says, else, as a run folder may have moved, under the run by the path's last parts."""
    path = Path(str(name or "–"))
    return thumbnail(str(path), (path, *moved(path, run)))


def moved(path: Path, run: Path) -> list[Path]:
    """Where a file may lie that a run named, if its folder was moved: under the run, by the path's last parts."""
    return [run.joinpath(*path.parts[begin:]) for begin in range(len(path.parts))]


def descriptions(run: Path, seed: int) -> dict[str, Any] | None:
    told = read_json_if_there(run / "evals" / "descriptions.json")
    if told is None:
        return None
    texts = spread(told.get("texts") or [], DESCRIPTIONS, group=lambda row: row.get("language"), seed=seed)
    return {**told, "texts": [{**row, "thumbnail": image(row.get("image"), run)} for row in texts]}


def over_training(run: Path) -> list[dict[str, Any]] | None:
    """The validation's questions, each with its answers from the first to the last; where they are many, some."""
    path = run / "samples.jsonl"
    asked: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for _, row in read_jsonl(path) if path.is_file() else ():
        asked[str(row["id"]), row["question"]].append(row)
    cards = []
    for (name, question), rows in asked.items():
        step = max(1, -(-len(rows) // TIMES))
        said = [*rows[:-1:step], rows[-1]]
        first = rows[0]
        images = [image(path, run) for path in first.get("images", ())[:1]]
        cards.append({"id": name, "question": question, "wanted": first["wanted"], "said": said,
                      "asked": len(rows), "thumbnail": images[0] if images else None})  # fmt: skip
    return cards or None
