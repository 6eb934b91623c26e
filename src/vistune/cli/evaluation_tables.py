"""Print the figures of `evaluate` and `score`, and the list of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from vistune import api
from vistune.cli.console import count_of, print_json, print_lines, stdout

if TYPE_CHECKING:
    from vistune.evaluation import Comparison, EvaluationResult, ScoreResult

NO_FIGURE = "a judge (vistune score --judge) or the benchmark's server (--submission) gives it"


def print_comparison(comparison: Comparison, out: Path | None) -> None:
    """Print the figures of one evaluation, or the table of several."""
    from vistune.evaluation import figures_tables, remarks

    results = comparison.results
    if len(results) == 1:
        stdout.print(result_table(results[0]))
        print_breakdowns(results[0].score.tables)
        print_unparsed(results[0].score.unparsed, results[0].score.examples)
        if (groups := group_table(results[0])).row_count:
            stdout.print(groups)
    if len(results) > 1 or comparison.tasks[0].published:
        for figures in figures_tables(comparison):
            table = Table("", *figures.columns, title=f"{figures.task}, {count_of(figures.count, 'question')}")
            for name, values in figures.rows.items():
                table.add_row(name, *values)
            stdout.print(table)
        for remark in remarks(comparison):
            stdout.print(f"- {remark}")
    if out is not None and len(results) > 1:
        print_lines(f"{out / 'comparison.html'}: all metrics, and the questions on which the models differ")


def result_table(result: EvaluationResult) -> Table:
    """Return the figures of a result as a table."""
    table = Table("", "", "", title=f"{result.task}, {result.count} questions")
    seen = result.intervals.get("with_image")
    for name, value in result.metrics.items():
        is_shown_below = seen is not None and name == "accuracy" and value in (seen.value, 100 * seen.value)
        if not is_shown_below:
            table.add_row(name, f"{value:.2f}", "")
    if not result.metrics:
        table.add_row("no figure here", "", NO_FIGURE)
    for condition, interval in result.intervals.items():
        shown = f"{100 * interval.low:.1f} – {100 * interval.high:.1f}" if interval.has_interval else "too few images"
        table.add_row(f"accuracy {condition.replace('_', ' ')}", f"{100 * interval.value:.1f} %", shown)
    if result.majority is not None:
        table.add_row("majority answer", f"{100 * result.majority:.1f} %", "")
    if result.gap is not None:
        table.add_row("gap", f"{100 * result.gap.difference.value:.1f} points", result.gap.words)
    for condition, change in result.changed.items():
        name = f"replies changed {condition.replace('_', ' ')}"
        table.add_row(name, f"{100 * change.share.value:.1f} %", change.words)
    for condition, reason in result.left_out.items():
        table.add_row(condition.replace("_", " "), "left out", reason)
    return table


def group_table(result: EvaluationResult) -> Table:
    """Return the accuracy of each question type, language and source by condition; empty if there is one of each."""
    conditions = list(result.intervals)
    table = Table("right, per cent", *[condition.replace("_", " ") for condition in conditions], "majority")
    for groups in (result.by_type, result.by_language, result.by_source):
        for name, group in groups.items() if len(groups) > 1 else ():
            estimates = [group.accuracy[condition] for condition in conditions]
            shares = [estimate.value if estimate.count else None for estimate in estimates]
            cells = ["" if share is None else f"{100 * share:.1f}" for share in (*shares, group.majority)]
            table.add_row(name, *cells)
    return table


def print_tasks(as_json: bool) -> None:
    """Print every task with its files, source, licence and size."""
    listed = api.tasks()
    if as_json:
        print_json([{"task": name, **asdict(entry)} for name, entry in listed.items()])
        return
    for name, entry in listed.items():
        print_lines(Text.assemble((name, "bold"), f"  {entry.about}"), *(f"    {file}" for file in entry.files))
        print_lines(f"    from {entry.source} · {entry.licence} · {entry.size}")


def print_score(result: ScoreResult) -> None:
    """Print the figures, by both parse rules if they differ, and examples of missing and unparsed replies."""
    scored, other = result.scored, result.other
    titles = [result.rule, *(["lenient" if result.rule == "official" else "official"] if other is not None else [])]
    table = Table("", *titles, title=f"{result.task}, {scored.count} questions")
    for name, value in scored.metrics.items():
        table.add_row(name, f"{value:.4f}", *([f"{other.get(name, value):.4f}"] if other is not None else []))
    if scored.metrics:
        stdout.print(table)
    else:
        print_lines(f"{result.task}, {scored.count} questions: no figure here, {NO_FIGURE}")
    print_breakdowns(scored.tables)
    for count, words in (
        (scored.missing, "questions without a prediction: counted as wrong"),
        (result.repeated, "predictions for a question that has a later one: the last counts"),
    ):
        if count:
            print_lines(f"{count} {words}")
    print_unparsed(scored.unparsed, scored.examples)


def print_breakdowns(tables: Mapping[str, Mapping[str, tuple[float, int]]]) -> None:
    """Print a task's own tables."""
    for title, groups in tables.items():
        if not groups:  # the data do not have this breakdown
            continue
        breakdown = Table(title, "value", "questions")
        for group, (value, count) in groups.items():
            breakdown.add_row(group, f"{value:.2f}", str(count))
        stdout.print(breakdown)


def print_unparsed(count: int, examples: Sequence[tuple[str, str]]) -> None:
    """Print how many answers could not be parsed, with examples."""
    if count:
        print_lines(f"{count} answers cannot be parsed; the benchmark's rules decide how they count. Examples:")
    for name, text in examples:
        print_lines(f"    {name}: {text[:200]!r}")
