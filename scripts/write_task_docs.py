"""Write the table of docs/reference/benchmarks.md from the tasks themselves; a test compares, so the page cannot drift.

python scripts/write_task_docs.py
"""

from __future__ import annotations

from pathlib import Path

from marked_block import replace_block

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "benchmarks.md"
BEGIN, END = "<!-- tasks: begin, written by scripts/write_task_docs.py -->", "<!-- tasks: end -->"


def block() -> str:
    """The table of tasks, then two commands each."""
    from vistune.evaluation import TASKS

    table = ["| task | what it asks | into the data folder | from | licence, size |", "| --- | --- | --- | --- | --- |"]
    commands = []
    for name, task in TASKS.items():
        facts = task.facts
        paper = f" ([paper]({facts.paper}))" if facts.paper else ""
        files = "; ".join(facts.files)
        cells = (f"`{name}`", facts.about + paper, files, facts.source, f"{facts.licence}; {facts.size}")
        table.append("| " + " | ".join(cell.replace("|", "\\|").replace("*", "\\*") for cell in cells) + " |")
        judge = " --judge gpt-4o" if task.judged else ""
        data = "runs/quickstart/world" if name in ("scenes", "combinations") else f"data/{name}"
        commands += [
            f"vistune score {name} --data {data} --predictions answers.jsonl{judge}",
            f"vistune evaluate runs/mine --task {name} --data {data}",
        ]
    return "\n".join(["", "", *table, "", "```bash", *commands, "```", "", ""])


def page() -> str:
    """The page with its table up to date."""
    return replace_block(PAGE.read_text(encoding="utf-8"), BEGIN, END, block())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
