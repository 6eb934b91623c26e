"""Find every text that users read: errors and their hints, printed lines, notes, tables and progress bars.

The source is walked, not run. A text that depends on values becomes a template with `{name}` at each of them; a choice
between texts becomes one text for each.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "src" / "vistune"
ERRORS = (
    "VistuneError", "RecipeError", "DataError", "TooManyRejects", "DiskError", "CheckpointError", "TeacherError",
    "BudgetError", "Stopped",
)  # fmt: skip
# Calls whose arguments users read: name of the function or class -> positions and names of the arguments.
CALLS: Mapping[str, tuple[int | str, ...]] = {
    **dict.fromkeys(ERRORS, (0, 1, "hint")),
    "RecordError": (2, 3),
    "ReplyError": (1,),
    "FieldError": (1, 2),
    "refuse_given": (1, 2),
    "print_lines": tuple(range(20)),
    "print_message": (0,),
    "phrase": (0,),
    "Difference": (1, 2),
    "StageResult": (1, 2),
    "say": (0,),
    "print": (0,),
    "note": (0,),
    "on_message": (0,),
    "report": (0,),
    "Reject": (3,),
    "reject": (1,),
    "progress": (0,),
    "byte_progress": (1,),
    "add_column": (0,),
    "Table": (*range(20), "title"),
}
# Functions that return or yield lines for users: every text in them counts.
LINE_FUNCTIONS = (
    "check_lines", "summary", "plan_lines", "guessing_lines", "lines_of", "lines", "describe_provenance",
    "describe_gap", "describe_change", "describe_image", "describe_top_reject", "summary_table", "print_stage", "_fit",
    "constant_loss", "exploding_loss", "unsupervised_step", "blind_model", "warning", "slow",
    "_note", "_report", "compare_with_forecast",
)  # fmt: skip
LINE_FUNCTIONS_OF_MODULES = {"evaluation/comparison_tables.py": ("remarks",)}
# Calls that only these modules make for users: pydantic shows a recipe's ValueErrors.
CALLS_OF_MODULES: Mapping[str, Mapping[str, tuple[int, ...]]] = {"recipe/schema.py": {"ValueError": (0,)}}
# Modules in which the texts that functions return are reasons: for rejecting a sample, or for a difference.
REASONS = (
    "datagen/checks.py", "interop/replies.py", "interop/verify.py", "interop/verify_server.py",
    "interop/verify_stages.py",
)  # fmt: skip
# Modules whose errors answer a program in English: a client of the HTTP API reads a request's errors.
FOR_PROGRAMS = ("serving/api/", "generation/fields.py", "generation/messages.py")
MOST_VARIANTS = 24  # of a text with several choices
# Calls of these names that print no text of theirs: the argument is the name of an event.
NOT_FOR_USERS = {"cli/progress.py": ("report",)}
COMMAND_LINE = re.compile(r"(  |\{\w+\} )vistune [a-z]")  # an example of a command, the same in every language
PART_OF_A_TEXT = re.compile(r" \S|,|\(")  # how a text begins that only continues another one
WORD = re.compile(r"[\"'(`\[]*[A-Za-z][A-Za-z'-]+[,.;!?)\"'`]*")
NO_NAMES = frozenset({"join", "map", "str", "sorted", "f", "for", "in", "if", "else", "len", "self", "some", "shown"})
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class UserText:
    """A text, and the first place in the source that has it."""

    text: str
    place: str


@cache
def user_texts() -> tuple[UserText, ...]:
    """Return every text once."""
    found: dict[str, str] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        for text, line in () if name.startswith(FOR_PROGRAMS) else texts_of(path, name):
            found.setdefault(text, f"{name}:{line}")
    return tuple(UserText(text, place) for text, place in found.items())


def texts_of(path: Path, module: str) -> Iterator[tuple[str, int]]:
    """Yield the texts of a file, each with its line."""
    calls = {**CALLS, **CALLS_OF_MODULES.get(module, {})}
    for name in NOT_FOR_USERS.get(module, ()):
        del calls[name]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    functions = [node for node in ast.walk(tree) if isinstance(node, Function)]
    owners = {id(child): function for function in functions for child in ast.walk(function)}
    for function in functions:
        if function.name in (*LINE_FUNCTIONS, *LINE_FUNCTIONS_OF_MODULES.get(module, ())):
            yield from texts_in(function, constants)
    for node in ast.walk(tree):
        if module in REASONS and isinstance(node, ast.Return) and node.value is not None:
            texts = variants(node.value, {**constants, **locals_of(owners.get(id(node)))})
            yield from ((text, node.lineno) for text in texts if is_language(text) and " " in text)
        if isinstance(node, ast.Call) and name_of(node.func) == "count_of":
            yield from ((text, node.lineno) for text in counted(node))
        if not isinstance(node, ast.Call) or (arguments := calls.get(name_of(node.func))) is None:
            continue
        names = {**constants, **locals_of(owners.get(id(node)))}
        for number, argument in enumerate(chosen(node, arguments)):
            for text in variants(argument, names):
                if is_language(text) and not text.endswith(": "):
                    yield from ((one, node.lineno) for one in composed(node, number, text))


def counted(call: ast.Call) -> list[str]:
    """Return the texts of `count_of(number, noun)`."""
    noun = call.args[1]
    return [f"{{count}} {noun.value}{ending}" for ending in ("", "s")] if isinstance(noun, ast.Constant) else []


def composed(call: ast.Call, number: int, text: str) -> list[str]:
    """Return the messages that a call makes of a text."""
    if name_of(call.func) == "refuse_given" and number == 0:
        return [f"{{options}}: {text}"]
    return [text]


def texts_in(function: Function, constants: Mapping[str, ast.expr]) -> Iterator[tuple[str, int]]:
    """Yield every text in a function except its docstring, keys, and the parts of another text."""
    names = {**constants, **locals_of(function)}
    inner = {id(child) for node in ast.walk(function) if isinstance(node, ast.JoinedStr) for child in ast.walk(node)}
    docstring = function.body[0].value if isinstance(function.body[0], ast.Expr) else None
    for node in ast.walk(function):
        is_inner = id(node) in inner and not isinstance(node, ast.JoinedStr)
        if node is docstring or is_inner or not isinstance(node, ast.JoinedStr | ast.Constant):
            continue
        for text in variants(node, names):
            is_part = PART_OF_A_TEXT.match(text) or text.endswith(" ") or len(words_of(text)) < 2
            if is_language(text) and " " in text.strip() and not is_part:
                yield text, node.lineno


def name_of(function: ast.expr) -> str:
    if isinstance(function, ast.Name):
        return function.id
    return function.attr if isinstance(function, ast.Attribute) else ""


def chosen(call: ast.Call, arguments: tuple[int | str, ...]) -> Iterator[ast.expr]:
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    for argument in arguments:
        if isinstance(argument, int) and argument < len(call.args):
            yield call.args[argument]
        elif isinstance(argument, str) and argument in named:
            yield named[argument]


def locals_of(function: ast.AST | None) -> dict[str, ast.expr]:
    """Return the local names that plain assignments set; a tuple if there are several values."""
    values: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function) if function is not None else ():
        pairs: list[tuple[ast.expr, ast.expr]] = []
        if isinstance(node, ast.Assign):
            pairs = [(target, node.value) for target in node.targets]
        elif isinstance(node, ast.NamedExpr | ast.AnnAssign) and node.value is not None:
            pairs = [(node.target, node.value)]
        for target, value in pairs:
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                for one, part in zip(target.elts, value.elts, strict=False):
                    if isinstance(one, ast.Name):
                        values.setdefault(one.id, []).append(part)
            elif isinstance(target, ast.Name):
                values.setdefault(target.id, []).append(value)
    return {name: options[0] if len(options) == 1 else ast.Tuple(options) for name, options in values.items()}


def variants(node: ast.expr, names: Mapping[str, ast.expr], depth: int = 0) -> list[str]:
    """Return the texts that an expression can be; `{name}` for parts that depend on values."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        parts = [piece(part, names, depth) for part in node.values]
        combined = itertools.islice(itertools.product(*parts), MOST_VARIANTS)
        return ["".join(choice) for choice in combined]
    if isinstance(node, ast.IfExp):
        return variants(node.body, names, depth) + variants(node.orelse, names, depth)
    if isinstance(node, ast.BoolOp):
        return [text for value in node.values for text in variants(value, names, depth)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = (variants(side, names, depth) or ["{rest}"] for side in (node.left, node.right))
        return [a + b for a, b in itertools.islice(itertools.product(left, right), MOST_VARIANTS)]
    if isinstance(node, ast.Name) and node.id in names and depth < 3:
        value = names[node.id]
        options = value.elts if isinstance(value, ast.Tuple) else [value]
        return [text for option in options for text in variants(option, names, depth + 1)]
    return []


def piece(part: ast.expr, names: Mapping[str, ast.expr], depth: int) -> list[str]:
    """Return the texts of a part of an f-string."""
    if isinstance(part, ast.Constant):
        return [str(part.value)]
    assert isinstance(part, ast.FormattedValue)
    value = part.value
    if isinstance(value, ast.IfExp | ast.Name) and part.conversion == -1:
        texts = variants(value, names, depth)
        if texts and all(is_language(text) or len(text) < 4 for text in texts):
            return texts
    words = re.findall(r"[A-Za-z]\w*", ast.unparse(value))
    return ["{" + next((word for word in words if word not in NO_NAMES), "value") + "}"]


def is_language(text: str) -> bool:
    """Return whether a text has words of its own: not only values, options, paths and units."""
    return not COMMAND_LINE.match(text) and any(word not in ("kB]", "is", "are") for word in words_of(text))


def words_of(text: str) -> list[str]:
    """Return the English words of a text, without values, options, paths and keys."""
    return [word for word in re.sub(r"\{\w+\}", "0", text).split() if WORD.fullmatch(word)]
