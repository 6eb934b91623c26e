"""Whatever stands in a file, a URL or a conversation: it is read, or refused in words; nothing else happens."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vistune.data import index
from vistune.errors import DataError
from vistune.generation import read_messages
from vistune.model import read_spec
from vistune.processor import Processor, load_tokenizer, open_image
from vistune.recipe import Model
from vistune.records import ImageFolders, RecordError, read_sample
from vistune.types import IGNORE, IMAGE_ID, ImageRef, Message, Sample

T = TypeVar("T")
bounded = settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SAID = [
    "red",
    "<image>",
    "</s>",
    "<s>",
    "USER: ",
    "ASSISTANT: ",
    "###",
    "\n",
    " ",
    "네",
    "[INST]",
    "\0",
    "\ud800",
    "🐶",
]
words = st.lists(st.sampled_from(SAID) | st.text(max_size=8), max_size=6).map("".join)
FIELDS = (
    "id",
    "image",
    "images",
    "conversations",
    "messages",
    "from",
    "value",
    "role",
    "content",
    "type",
    "text",
    "kind",
)
known = st.sampled_from(["human", "gpt", "user", "assistant", "system", "image", "text", "a.png", "../a.png", "/a.png"])
plain = st.none() | st.booleans() | st.integers() | st.floats() | words | known
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
)
asked = st.fixed_dictionaries({"from": st.just("human"), "value": words})
told = st.fixed_dictionaries({"from": st.just("gpt"), "value": words | plain})
nearly = st.fixed_dictionaries(
    {"conversations": st.lists(asked | told | values, max_size=5)},
    optional={"id": plain, "image": values, "kind": plain},
)
rows = nearly | st.dictionaries(st.sampled_from(FIELDS), values, max_size=5)


def tried(call: Callable[[], T]) -> T | DataError:
    try:
        return call()
    except DataError as error:
        return error


def test_any_row_is_a_sample_or_a_fault_with_its_place(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    folders = ImageFolders([tmp_path])

    @bounded
    @given(rows)
    def holds(row: dict[str, Any]) -> None:
        made = tried(lambda: read_sample(row, "data.json:3", folders, Counter()))
        if isinstance(made, Sample):
            said = "".join(message.text for message in made.messages)
            assert made.messages
            assert "<image>" not in said
            assert said.encode().decode() == said
            return
        assert isinstance(made, RecordError)
        assert str(made).encode().startswith(b"data.json:3")  # it can be printed, whatever the row holds
        assert made.hint
        assert made.reason.startswith("bad_")
        assert "the reader of this form fails" not in made.message

    holds()


GOOD = [
    {"id": f"r{k}", "conversations": [{"from": "human", "value": f"무엇 {k}?"}, {"from": "gpt", "value": "red ✓"}]}
    for k in range(3)
]
LIST = json.dumps(GOOD, ensure_ascii=False, indent=0).encode()
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in GOOD).encode()
edits = st.lists(
    st.tuples(
        st.integers(0, 10_000), st.integers(0, 12), st.binary(max_size=4) | st.sampled_from([b"\n", b"[", b"}", b'"'])
    ),
    max_size=3,
)


def test_any_bytes_are_an_index_or_a_fault_of_the_file(tmp_path: Path) -> None:
    @bounded
    @given(st.sampled_from([LIST, LINES]), edits)
    def holds(content: bytes, changes: Sequence[tuple[int, int, bytes]]) -> None:
        for place, length, put in changes:
            place %= len(content) + 1
            content = content[:place] + put + content[place + length :]
        path = tmp_path / "data"
        path.write_bytes(content)
        made = tried(lambda: index(path, [tmp_path], None))
        if isinstance(made, DataError):
            assert str(made).startswith(str(path))
            return
        for row in range(len(made)):
            assert made.sample(row).origin == made.location(row)
        lines = content.count(b"\n") + 1
        assert all(1 <= fault.at[0] <= lines for fault in made.faults)

    holds()


links = st.tuples(
    st.sampled_from(
        ["data:", "data:image/png;base64,", "data:image/jpeg", "http://", "file:///etc/passwd", "DATA:;,", ""]
    ),
    st.text(max_size=40) | st.binary(max_size=40).map(lambda data: base64.b64encode(data).decode()),
).map("".join)


@bounded
@given(links)
def test_any_picture_link_is_a_picture_or_a_fault(link: str) -> None:
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": link}}]}
    with pytest.raises(DataError, match=r"messages\[0\]"):
        open_image(read_messages([message])[0].images[0])


@pytest.fixture(scope="module")
def processor(tiny_backbones: Path) -> Processor:
    model = Model(vision=str(tiny_backbones / "vision"), language=str(tiny_backbones / "language"))
    return Processor(load_tokenizer(tiny_backbones / "language"), read_spec(model))


text = st.lists(st.sampled_from([said for said in SAID if said not in ("\0", "\ud800")]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=8), min_size=1, max_size=6).map("".join)  # fmt: skip
talks = st.lists(st.tuples(text, text), min_size=1, max_size=3)


@pytest.mark.parametrize("template", ["plain", "v0", "v1", "llama_2", "mistral"])
def test_any_conversation_keeps_its_answers_and_gains_no_special_token(template: str, processor: Processor) -> None:
    fitted = Processor(processor.tokenizer, replace(processor.spec, template=template))
    image = ImageRef(Image.new("RGB", (4, 4)))
    special = set(processor.tokenizer.all_special_ids)

    def specials(said: Sequence[tuple[str, str]]) -> int | DataError:
        encoded = tried(lambda: fitted.encode_ids(_sample(said, image)))
        return encoded if isinstance(encoded, DataError) else sum(token in special for token in encoded.ids)

    @bounded
    @given(talks)
    def holds(said: list[tuple[str, str]]) -> None:
        said = said[:1] if template == "plain" else said
        encoded = tried(lambda: fitted.encode_ids(_sample(said, image)))
        if isinstance(encoded, DataError):  # a token that is partly inside an answer
            assert encoded.hint
            return
        assert len(encoded.ids) == len(encoded.labels)
        assert encoded.ids.count(IMAGE_ID) == sum(encoded.slots) == fitted.slots(image)
        assert all(label in (IGNORE, token) for token, label in zip(encoded.ids, encoded.labels, strict=True))
        assert specials(said) == specials([("q", "a")] * len(said))  # the template's own, however many

    holds()


def _sample(said: Sequence[tuple[str, str]], image: ImageRef) -> Sample:
    messages = []
    for number, (question, answer) in enumerate(said):
        asked = (image, question) if number == 0 else (question,)
        messages += [Message("user", asked), Message("assistant", (answer,))]
    return Sample("fuzz", tuple(messages), origin="data.json:3")
