"""Fix two settings in the source of a chat template: thinking is off, and the date is today's.

Otherwise a template gets both from its caller, so a prompt could change from one day to the next. The saved tokenizer
and every export contain the source with these settings.
"""

from __future__ import annotations

import json
import re
from datetime import date, datetime

from jinja2 import meta
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vistune.errors import RecipeError

GENERATION = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")
THINKING_OFF = "{% set enable_thinking = false %}\n"
DATE_DIRECTIVES = ("%Y", "%y", "%m", "%-m", "%d", "%-d", "%j", "%B", "%b", "%A", "%a")


def with_defaults(source: str) -> str:
    """Return the source with thinking off and today's date, unless it sets them itself.

    Raises:
        RecipeError: If the source is not valid Jinja.
    """
    try:
        tree = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(GENERATION.sub("", source))
    except TemplateError as error:
        raise RecipeError(
            f"the tokenizer's chat template is not valid Jinja: {error}", "correct it, or choose one of our templates"
        ) from None
    free = meta.find_undeclared_variables(tree)
    if "strftime_now" in free:
        source = fixed_date(datetime.now().astimezone().date()) + source
    return THINKING_OFF + source if "enable_thinking" in free else source


def without_generation_marks(source: str) -> str:
    """Return Jinja source that renders the same without `{% generation %}`, which only transformers' Jinja parses.

    The marks become `{% if true %}`, so that whitespace around them is treated as before.
    """

    def plain(mark: re.Match[str]) -> str:
        return re.sub("endgeneration", "endif", mark[0]) if mark[1] else re.sub("generation", "if true", mark[0])

    return GENERATION.sub(plain, source)


def fixed_date(today: date) -> str:
    """Return Jinja source that defines `strftime_now` as the function of a fixed date."""
    values = {directive: today.strftime(directive) for directive in DATE_DIRECTIVES}
    return (
        "{% macro strftime_now(format) %}{% set date = namespace(text=format) %}"
        f"{{% for directive, value in {json.dumps(values)}.items() %}}"
        "{% set date.text = date.text | replace(directive, value) %}{% endfor %}{{ date.text }}{% endmacro %}\n"
    )
