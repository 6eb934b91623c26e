"""Coverage-guided fuzzing of everything that reads what others wrote: python scripts/fuzz.py TARGET [libFuzzer options]

Each target is a function of bytes that may raise nothing but the project's own errors; tests/test_fuzz_targets.py
gives them random bytes in CI, `make fuzz` runs atheris (PyPI) on them, seeded with what they are meant to read.
"""

from __future__ import annotations

import base64
import io
import logging
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from PIL import Image

from vistune.datagen.teachers.replies import ReplyError, parse_reply
from vistune.errors import VistuneError
from vistune.files import parse_yaml
from vistune.generation import read_data_url
from vistune.processor import Processor, load_tokenizer
from vistune.processor.images import decode
from vistune.recipe import source_of, validate
from vistune.records import ImageFolders, read_records, read_sample
from vistune.serving.api import Limits
from vistune.serving.api.guard import Refusal
from vistune.serving.api.schema import read_request
from vistune.types import IMAGE_ID, Message, Sample, Spec

OURS = (VistuneError, ReplyError, Refusal)
TURNS = '[{"from": "human", "value": "<image>\\nx"}, {"from": "gpt", "value": "y"}]'
ROW = f'{{"id": 1, "image": "a.png", "conversations": {TURNS}}}'
CHAT = '{"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}], "stop": ["a"]}'


def _image(form: str, mode: str = "RGB") -> bytes:
    written = io.BytesIO()
    Image.new(mode, (8, 8), 3).save(written, form)
    return written.getvalue()


IMAGES = tuple(_image(*made) for made in (("PNG",), ("JPEG",), ("GIF", "P"), ("WEBP",), ("PNG", "P"), ("PNG", "I;16")))
SEEDS = {
    "data_url": tuple(b"data:image/png;base64," + base64.b64encode(one) for one in IMAGES),
    "picture": IMAGES,
    "rows": (ROW.encode(),),
    "list": (f"[{ROW},\n{ROW}]".encode(),),
    "recipe": (b"name: x\nstages:\n- {name: a, learn: {projector: 1e-3}, steps: 1}\n",),
    "request": (CHAT.encode(),),
    "reply": (b"Question: What?\n===\nAnswer: This.\n",),
    "template": ("USER: <image></s> 네".encode(),),
}


def data_url(data: bytes) -> None:
    read_data_url(data.decode("utf-8", "replace"), "fuzz")


def image(data: bytes) -> None:
    decode(data, "fuzz")


def rows(data: bytes, name: str = "data.jsonl") -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        for number, written in enumerate(read_records(path)):
            with suppress(*OURS):
                if isinstance(written.value, Mapping):
                    read_sample(written.value, f"{path}:{number}", ImageFolders(None), Counter())


def rows_of_a_list(data: bytes) -> None:
    rows(data, "data.json")


def recipe(data: bytes) -> None:
    tree = parse_yaml(data.decode("utf-8", "replace"), "fuzz")
    if isinstance(tree, dict):
        validate(tree, "fuzz")


def request(data: bytes) -> None:
    read_request(data, model="m", limits=Limits())


def reply(data: bytes) -> None:
    for kind in ("conversation", "detail"):
        with suppress(ReplyError):
            parse_reply(data.decode("utf-8", "replace"), kind)


@cache
def _processors() -> list[Processor]:
    tokenizer = load_tokenizer(source_of("builtin", "language"))
    half = (0.5, 0.5, 0.5)
    return [Processor(tokenizer, Spec(1, 1, len(tokenizer), 1, 2, half, half, "identity", name))
            for name in ("v0", "v1", "plain", "llama_2")]  # fmt: skip


def template(data: bytes) -> None:
    """Text becomes no picture and ends no turn, whatever is in it."""
    said = data.decode("utf-8", "replace")
    for processor in _processors():
        messages = (Message("user", (said or "x",)), Message("assistant", (said or "x",)))
        shown = processor.shown(Sample("fuzz", messages))
        plain = processor.shown(Sample("fuzz", (Message("user", ("x",)), Message("assistant", ("x",)))))
        assert IMAGE_ID not in shown["input_ids"]
        ends = processor.stop_ids
        assert sum(one in ends for one in shown["input_ids"]) == sum(one in ends for one in plain["input_ids"])


TARGETS: dict[str, Callable[[bytes], None]] = {
    "data_url": data_url,
    "picture": image,
    "rows": rows,
    "list": rows_of_a_list,
    "recipe": recipe,
    "request": request,
    "reply": reply,
    "template": template,
}


def tried(name: str, data: bytes) -> None:
    """The target on these bytes; its own refusals are what is wanted."""
    with suppress(*OURS), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        TARGETS[name](data)


def main() -> None:
    import atheris

    logging.disable(logging.CRITICAL)
    name, *options = sys.argv[1:]
    TARGETS[name]
    for module in [module for key, module in sys.modules.items() if key.startswith("vistune.")]:
        for value in vars(module).values():
            if (
                callable(value)
                and getattr(value, "__module__", "").startswith("vistune.")
                and hasattr(value, "__code__")
            ):
                atheris.instrument_func(value)
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(SEEDS[name]):
            (Path(folder) / str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], *options, folder], lambda data: tried(name, data))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
