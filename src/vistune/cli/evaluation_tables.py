"""Print the figures of `evaluate` and `score`, and the list of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from vistune import api
from vistune.cli.console import OwnText, in_users_language, print_json, print_lines, say, stdout

if TYPE_CHECKING:
    from vistune.evaluation import Comparison, EvaluationResult, ScoreResult

NO_FIGURE = "a judge (vistune score --judge) or the benchmark's server (--submission) gives it"
CONDITIONS = {"with_image": "with image", "without_image": "without image", "wrong_image": "wrong image"}


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
            table = Table("", *map(in_users_language, figures.columns), title=title_of(figures.task, figures.count))
            for name, values in figures.rows.items():
                table.add_row(OwnText(name), *map(in_users_language, values))
            stdout.print(table)
        for remark in remarks(comparison):
            about = "" if remark.condition is None else f", {condition_of(remark.condition)}"
            stdout.print(f"- {in_users_language(remark.subject)}{about}: {in_users_language(remark.words)}")
    if out is not None and len(results) > 1:
        page = out / "comparison.html"
        print_lines(say("{page}: all metrics, and the questions on which the models differ", page=page))


def title_of(task: str, count: int) -> str:
    """Return a table's title: the task and the number of questions."""
    return say("{task}, {count} questions" if count != 1 else "{task}, 1 question", task=task, count=f"{count:,}")


def condition_of(name: str) -> str:
    """Return a condition in the user's language."""
    return say(CONDITIONS[name])


def result_table(result: EvaluationResult) -> Table:
    """Return the figures of a result as a table."""
    table = Table("", "", "", title=title_of(result.task, result.count))
    seen = result.intervals.get("with_image")
    for name, value in result.metrics.items():
        is_shown_below = seen is not None and name == "accuracy" and value in (seen.value, 100 * seen.value)
        if not is_shown_below:
            table.add_row(name, f"{value:.2f}", "")
    if not result.metrics:
        table.add_row(say("no figure here"), "", say(NO_FIGURE))
    for condition, interval in result.intervals.items():
        limits = f"{100 * interval.low:.1f} – {100 * interval.high:.1f}"
        shown = limits if interval.has_interval else say("too few images")
        name = say("accuracy {condition}", condition=condition_of(condition))
        table.add_row(name, f"{100 * interval.value:.1f} %", shown)
    if result.majority is not None:
        table.add_row(say("majority answer"), f"{100 * result.majority:.1f} %", "")
    if result.gap is not None:
        points = say("{points} points", points=f"{100 * result.gap.difference.value:.1f}")
        table.add_row(say("gap"), points, in_users_language(result.gap.words))
    for condition, change in result.changed.items():
        name = say("replies changed {condition}", condition=condition_of(condition))
        table.add_row(name, f"{100 * change.share.value:.1f} %", in_users_language(change.words))
    for condition, reason in result.left_out.items():
        table.add_row(condition_of(condition), say("left out"), in_users_language(reason))
    return table


def group_table(result: EvaluationResult) -> Table:
    """Return the accuracy of each question type, language and source by condition; empty if there is one of each."""
    conditions = list(result.intervals)
    table = Table(say("right, per cent"), *map(condition_of, conditions), say("majority"))
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
        print_lines(f"    {say('from {source}', source=entry.source)}, {entry.licence}, {entry.size}")


def print_score(result: ScoreResult) -> None:
    """Print the figures, by both parse rules if they differ, and examples of missing and unparsed replies."""
    scored, other = result.scored, result.other
    title = title_of(result.task, scored.count)
    titles = [result.rule, *(["lenient" if result.rule == "official" else "official"] if other is not None else [])]
    table = Table("", *titles, title=title)
    for name, value in scored.metrics.items():
        table.add_row(name, f"{value:.4f}", *([f"{other.get(name, value):.4f}"] if other is not None else []))
    if scored.metrics:
        stdout.print(table)
    else:
        print_lines(f"{title}: {say('no figure here')}, {say(NO_FIGURE)}")
    print_breakdowns(scored.tables)
    for count, template in (
        (scored.missing, "{count} questions without a prediction: counted as wrong"),
        (result.repeated, "{count} predictions for a question that has a later one: the last counts"),
    ):
        if count:
            print_lines(say(template, count=f"{count:,}"))
    print_unparsed(scored.unparsed, scored.examples)


def print_breakdowns(tables: Mapping[str, Mapping[str, tuple[float, int]]]) -> None:
    """Print a task's own tables."""
    for title, groups in tables.items():
        if not groups:  # the data do not have this breakdown
            continue
        breakdown = Table(title, say("value"), say("questions"))
        for group, (value, count) in groups.items():
            breakdown.add_row(group, f"{value:.2f}", str(count))
        stdout.print(breakdown)


def print_unparsed(count: int, examples: Sequence[tuple[str, str]]) -> None:
    """Print how many answers could not be parsed, with examples."""
    if count:
        template = "{count} answers cannot be parsed; the benchmark's rules decide how they count. Examples:"
        print_lines(say(template, count=f"{count:,}"))
    for name, text in examples:
        print_lines(f"    {name}: {text[:200]!r}")
