"""The command `generate`: write instruction data from annotated images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vistune import api
from vistune.cli.commands import refuse_given
from vistune.cli.console import (
    Json,
    count_of,
    in_users_language,
    print_json,
    print_lines,
    print_message,
    progress_bar,
    say,
)
from vistune.cli.endpoint import service_option
from vistune.errors import RecipeError
from vistune.records import lines_of
from vistune.registry import lookup

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vistune.datagen import GeneratedData, GenerationConfig, TableForm
    from vistune.datagen.generate import Spending

TEACHER_OPTIONS = (  # parameters of `generate` that only a remote teacher uses
    "base_url", "api_key_file", "see", "concurrency", "requests_per_minute", "tokens_per_minute", "max_tokens",
    "temperature", "extra_body", "tries", "batch", "budget", "prices", "allow_drift", "dry_run",
)  # fmt: skip

NAMED_LABELS = 5  # of the labels without words

Source = Annotated[
    Path,
    typer.Argument(
        help="Folder of images with annotations (COCO, YOLO, VOC, CVAT, Label Studio, labelme, VIA …), or a "
        "table. With --see also images without annotations."
    ),
]
Out = Annotated[Path, typer.Option(help="Output folder.")]
Teacher = Annotated[str, typer.Option(help="Teacher: rule (offline rules) or openai (any OpenAI-compatible endpoint).")]
Split = Annotated[str | None, typer.Option(help="Split of the source, for example train.")]
Columns = Annotated[
    str | None,
    typer.Option(
        help="Tables: names of the columns, for example image=file,captions=text. Names before =: image, captions, "
        "boxes, id, label, xmin, ymin, xmax, ymax."
    ),
]
Images = Annotated[Path | None, typer.Option(help="Tables: image folder. Default: the folder of the table.")]
BoxesAs = Annotated[
    str | None, typer.Option(help="Tables: format of boxes: relative (corners 0-1), pixels (corners) or coco.")
]
Labels = Annotated[
    Path | None,
    typer.Option(help="YAML or JSON file with English and Korean words for labels that are not in the lexicon."),
]
Kinds = Annotated[
    str,
    typer.Option(help="Kinds of samples, separated by commas; preference writes pairs of a right and a wrong answer."),
]
Mix = Annotated[str | None, typer.Option(help="Ratio conversation:detail:reasoning, for example 58:23:77.")]
PerImage = Annotated[int, typer.Option(help="With --mix: samples per image and language.", min=1)]
Language = Annotated[
    str, typer.Option(help="Languages, separated by commas: en,ko. The openai teacher also writes other languages.")
]
HeldOut = Annotated[
    float | None,
    typer.Option(
        help="Share of the images that are held out, for example 0.1: held_out.json has their samples, and "
        "questions.jsonl asks about them."
    ),
]
Limit = Annotated[int | None, typer.Option(help="Use only the first N images.", min=1)]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Model = Annotated[str | None, typer.Option(help="openai: name of the model at the endpoint.")]
BaseUrl = Annotated[str, typer.Option(help="openai: URL of the endpoint.")]
ApiKeyFile = Annotated[Path | None, service_option("openai", "api_key_file")]
See = Annotated[bool, typer.Option("--see", help="openai: also send the image to the model.")]
Concurrency = Annotated[int, service_option("openai", "concurrency")]
RequestsPerMinute = Annotated[float | None, service_option("openai", "requests_per_minute")]
TokensPerMinute = Annotated[float | None, service_option("openai", "tokens_per_minute")]
MaxTokens = Annotated[
    int | None,
    typer.Option(help="openai: maximum tokens per reply, including reasoning. Default: 96 to 1024, by kind.", min=1),
]
Temperature = Annotated[float | None, typer.Option(help="openai: sampling temperature. Default: 0.7.", min=0)]
ExtraBody = Annotated[str | None, service_option("openai", "extra_body")]
Tries = Annotated[int, typer.Option(help="openai: attempts per sample if the checks reject a reply.", min=1)]
Batch = Annotated[bool, typer.Option("--batch", help="openai: use the Batch API (cheaper, takes up to a day).")]
Budget = Annotated[float | None, service_option("openai", "budget")]
Prices = Annotated[Path | None, service_option("openai", "prices")]
AllowDrift = Annotated[
    bool,
    typer.Option(
        "--allow-drift",
        help="openai: resume although model, parameters or prompts have changed. Stored answers are kept.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="openai: estimate requests and cost, send nothing.")]


def generate(
    source: Source,
    out: Out,
    teacher: Teacher = "rule",
    split: Split = None,
    columns: Columns = None,
    images: Images = None,
    boxes_as: BoxesAs = None,
    labels: Labels = None,
    kinds: Kinds = "caption,conversation,detail,reasoning",
    mix: Mix = None,
    per_image: PerImage = 1,
    language: Language = "en",
    held_out: HeldOut = None,
    limit: Limit = None,
    seed: Seed = 0,
    model: Model = None,
    base_url: BaseUrl = "https://api.openai.com/v1",
    api_key_file: ApiKeyFile = None,
    see: See = False,
    concurrency: Concurrency = 16,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    extra_body: ExtraBody = None,
    tries: Tries = 3,
    batch: Batch = False,
    budget: Budget = None,
    prices: Prices = None,
    allow_drift: AllowDrift = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Generate instruction data from annotated images."""
    from vistune.datagen import TEACHERS, TEMPERATURE, GenerationConfig, NothingWritten, TeacherOptions
    from vistune.llm_client import read_extra_body

    lookup(teacher, dict.fromkeys(TEACHERS), "teacher")
    config = GenerationConfig(
        kinds=_names(kinds),
        languages=_names(language),
        mix=_mix(mix),
        per_image=per_image,
        seed=seed,
        held_out=held_out,
    )
    _refuse_contradictions(config, teacher=teacher, model=model)
    service = None
    if model is not None:
        service = TeacherOptions(
            model=model,
            base_url=base_url,
            key_file=api_key_file,
            see=see,
            tries=tries,
            batch=batch,
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            budget=budget,
            prices=prices,
            allow_drift=allow_drift,
            extra_body=read_extra_body(extra_body),
            max_tokens=max_tokens,
            temperature=TEMPERATURE if temperature is None else temperature,
        )
    selection = api.SourceSelection(split=split, table=_table(columns, images, boxes_as), limit=limit, labels=labels)
    if dry_run and service is not None:
        plan = api.plan_generation(source, config, service, **selection)
        print_json(plan.to_dict()) if as_json else print_lines(*plan_lines(plan))
        return
    try:
        generated = api.generate_data(
            source, out, config, service=service, progress=progress_bar, on_message=print_message, **selection
        )
    except NothingWritten as error:
        if as_json:
            print_json(error.generated.to_dict())
        raise
    print_json(generated.to_dict()) if as_json else print_lines(*summary(out, generated))


def _refuse_contradictions(config: GenerationConfig, *, teacher: str, model: str | None) -> None:
    """Raise RecipeError for options that do not fit together."""
    if config.mix is None and config.per_image != 1:
        raise RecipeError(f"--per-image {config.per_image} needs --mix", "add --mix 58:23:77, or remove --per-image")
    if config.mix is not None and not {"conversation", "detail", "reasoning"} <= set(config.kinds):
        raise RecipeError("--mix needs the kinds conversation, detail and reasoning", "remove --kinds or --mix")
    if model is None and teacher == "openai":
        raise RecipeError("--teacher openai needs a model", "add --model with its name at the endpoint")
    if model is not None and teacher == "rule":
        raise RecipeError(f"--model {model}: the rule teacher uses no model", "add --teacher openai, or remove --model")
    if model is None:
        hint = "add --teacher openai and --model NAME, or remove the option"
        refuse_given(TEACHER_OPTIONS, "only used with --teacher openai", hint)


def _table(columns: str | None, images: Path | None, boxes: str | None) -> TableForm | None:
    from vistune.datagen import TableForm

    if columns is None and images is None and boxes is None:
        return None
    return TableForm(columns=_columns(columns), images=images, boxes=boxes)  # type: ignore[arg-type]


def _columns(text: str | None) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",")] if text else []
    if not all(name and column for name, _, column in pairs):
        raise RecipeError(
            f"--columns {text}: must be NAME=COLUMN pairs", "write for example image=file_name,captions=text"
        )
    return {name.strip(): column.strip() for name, _, column in pairs}


def _names(text: str) -> tuple[str, ...]:
    """Split a list at its commas; each name once."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",")))


def summary(out: Path, generated: GeneratedData) -> list[str]:
    """Describe a finished run in a few lines: samples, rejects by reason, tokens and cost."""
    rejects, spent = generated.rejects, generated.spent
    from vistune.grounding.guessing import guessing_lines

    reasons = Counter(reject.reason for reject in rejects).most_common()
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons)
    rejected = say("{count} rejected", count=f"{len(rejects):,}")
    rejected += say(" ({reasons}; see rejects.jsonl)", reasons=listed) if reasons else ""
    lines = [f"{out}: {count_of(len(generated.rows), 'sample')}, {rejected}"]
    if generated.held_out:
        samples, questions = count_of(len(generated.held_out), "sample"), count_of(len(generated.questions), "question")
        held_out = "held out: {samples} (held_out.json), {questions} (questions.jsonl)"
        lines.append(say(held_out, samples=samples, questions=questions))
    if rejects:
        from vistune.datagen import describe_top_reject

        lines.append(say("most frequent reason: {reason}", reason=in_users_language(describe_top_reject(rejects))))
    lines += [cost_line(spent)] if spent else []
    lines += map(in_users_language, guessing_lines(generated.guessing))
    lines += [unknown_labels_line(out, list(generated.unknown_labels))] if generated.unknown_labels else []
    lines += map(in_users_language, generated.source.lines() if generated.source else [])
    return [*lines, say("report: {page}", page=out / "report.html")]


def cost_line(spent: Spending) -> str:
    """Describe the tokens and the cost of the requests of a run."""
    cost = f"${spent.dollars:.2f}" if spent.priced else say("cost unknown (add the model's price with --prices)")
    if spent.priced and spent.maybe_billed:
        unanswered = f"${spent.maybe_dollars:.2f}"
        cost += say(", and at most {dollars} for requests without an answer", dollars=unanswered)
    return say(
        "{model}: {prompt} prompt tokens, {completion} completion tokens; {cost}",
        model=spent.model,
        prompt=f"{spent.prompt_tokens:,}",
        completion=f"{spent.completion_tokens:,}",
        cost=cost,
    )


def unknown_labels_line(out: Path, names: Sequence[str]) -> str:
    """Name labels without words in the lexicon, and the file to fill in."""
    more = len(names) - NAMED_LABELS
    listed = ", ".join(names[:NAMED_LABELS]) + (say(" and {count} more", count=more) if more > 0 else "")
    return say(
        "{labels} without words in the lexicon: {names}; fill in {file}, and pass it with --labels",
        labels=count_of(len(names), "label"),
        names=listed,
        file=out / "labels.yaml",
    )


def plan_lines(plan: api.GenerationPlan) -> list[str]:
    """Describe the requests that a run would send: their number, cost and time."""
    cost, kinds, skipped = plan.cost, plan.cost.kinds, plan.source.skipped
    listed = f" ({', '.join(f'{count:,} {kind}' for kind, count in kinds.items())})" if kinds else ""
    tokens = "{prompt} prompt and {completion} completion tokens ({source})"
    prompt, completion = f"{cost.prompt_tokens:,}", f"{cost.completion_tokens:,}"
    lines = [
        f"{count_of(cost.requests, 'request')}{listed}",
        say(tokens, prompt=prompt, completion=completion, source=cost.tokens_by),
    ]
    if cost.dollars is None or cost.dollars_at_most is None:
        lines.append(say("cost unknown: {remedy}", remedy=cost.how_to_price))
    else:
        expected, most = f"${cost.dollars:.2f}", f"${cost.dollars_at_most:.2f}"
        lines.append(say("{expected} expected, {most} at most", expected=expected, most=most))
        if cost.budget is not None:
            fit = say(_fit(cost.budget, cost.dollars, cost.dollars_at_most))
            lines.append(f"--budget ${cost.budget:.2f}: {fit}")
    lines.append(say("{minutes} minutes ({source})", minutes=f"{cost.minutes:.1f}", source=cost.minutes_by))
    if "caption" in kinds:
        lines.append(
            say("captions are requested only for images without one; to skip them, remove caption from --kinds")
        )
    if skipped:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in skipped.items())
        lines.append(say("images skipped: {reasons}", reasons=reasons))
    lines += map(in_users_language, lines_of(plan.source.unread))
    return [*lines, say("no request was sent; --json shows three complete requests")]


def _fit(budget: float, expected: float, most: float) -> str:
    """Describe whether the requests fit into the budget, in dollars."""
    if most <= budget:
        return "the maximum cost fits"
    if expected <= budget:
        return "the expected cost fits; if the cost exceeds it, the run stops and keeps all answers"
    return "too low: the run would stop early and keep all answers"


def _mix(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    try:
        conversation, detail, reasoning = (int(share) for share in text.split(":"))
    except ValueError:
        raise RecipeError(f"--mix {text}: must be three whole numbers", "write for example 58:23:77") from None
    return conversation, detail, reasoning
