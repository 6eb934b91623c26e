"""Write the texts next to the GGUF files: Ollama's Modelfile, and a README with the commands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vistune.interop.gguf_tower import Difference
from vistune.processor import Processor
from vistune.processor.templates import BOS, EOS, Control, Piece, TextPiece
from vistune.types import ImageRef, Message

MARK = "\ue000"  # stands for the text of a message in a rendered conversation
IMAGE = "\ue001"
CONTEXT = 2048  # tokens that the commands give to a conversation


@dataclass(frozen=True, slots=True)
class TurnTexts:
    """Texts that a chat template writes around those of a conversation.

    Attributes:
        head: Before the first question.
        system: Before and behind a system message that replaces the default; None if the template takes none.
        middle: Between a question and the beginning of the answer.
        lead: Between `middle` and the text of an answer.
        next: Between an answer and the next question.
        image: Before and behind an image at the front of a question.
    """

    head: str
    system: tuple[str, str] | None
    middle: str
    lead: str
    next: str
    image: tuple[str, str]


def turn_texts(processor: Processor) -> TurnTexts:
    """Find what a processor's template writes, by rendering conversations of marks."""
    question, answer = Message("user", (MARK,)), Message("assistant", (MARK,))
    head, middle = _rendered(processor, question).split(MARK)
    _, answered, following, _ = _rendered(processor, question, answer, question).split(MARK)
    shown = _rendered(processor, Message("user", (ImageRef(Path("image")), MARK)))
    before, gap = shown.split(MARK)[0].split(IMAGE)
    system = None
    if getattr(processor.template, "takes_system", True):
        opening, closing, _ = _rendered(processor, Message("system", (MARK,)), question).split(MARK)
        system = (opening, closing)
    return TurnTexts(head, system, middle, answered.removeprefix(middle), following, (before.removeprefix(head), gap))


def _rendered(processor: Processor, *messages: Message) -> str:
    """Return a conversation as text, without the token that llama.cpp puts before every text."""
    tokenizer = processor.tokenizer
    special = {BOS: tokenizer.bos_token_id, EOS: tokenizer.eos_token_id}
    named = {
        key: "" if number is None else "".join(tokenizer.convert_ids_to_tokens([number]))
        for key, number in special.items()
    }

    def text_of(piece: Piece) -> str:
        if isinstance(piece, TextPiece):
            return piece.text
        return named.get(piece.token, piece.token) if isinstance(piece, Control) else IMAGE

    return "".join(map(text_of, processor.template.render(messages))).removeprefix(named[BOS] or "\0")


def modelfile(processor: Processor, language: str, projector: str) -> str:
    """Return Ollama's Modelfile: both files, the chat template, and where answers end.

    Ollama reads Go's templates. It puts `[img-0]` before a question with an image.
    """
    texts = turn_texts(processor)
    before, gap = texts.image
    is_image = (
        '{{ if ge (len .Content) 7 }}{{ if and (eq (slice .Content 0 5) "[img-") (eq (slice .Content 6 7) "]") }}'
    )
    shown = f"{before}{{{{ slice .Content 0 7 }}}}{gap}{{{{ slice .Content 7 }}}}"
    plain = "{{ .Content }}"
    content = f"{is_image}{shown}{{{{ else }}}}{plain}{{{{ end }}}}{{{{ else }}}}{plain}{{{{ end }}}}"
    head = texts.head
    if texts.system is not None:
        opening, closing = texts.system
        head = f"{{{{ if .System }}}}{opening}{{{{ .System }}}}{closing}{{{{ else }}}}{head}{{{{ end }}}}"
    template = (
        f"{head}{{{{ $later := false }}}}{{{{ range .Messages }}}}"
        f'{{{{ if eq .Role "user" }}}}{{{{ if $later }}}}{texts.next}{{{{ end }}}}{{{{ $later = true }}}}'
        f'{content}{texts.middle}{{{{ else if eq .Role "assistant" }}}}{texts.lead}{plain}{{{{ end }}}}{{{{ end }}}}'
    )
    stop = f"PARAMETER stop {json.dumps(processor.stop_text)}\n" if processor.stop_text.strip() else ""
    return (
        f'FROM ./{language}\nFROM ./{projector}\nTEMPLATE """{template}"""\n'
        f"PARAMETER temperature 0\nPARAMETER num_ctx {CONTEXT}\n{stop}"
    )


def readme(processor: Processor, language: str, projector: str, differences: Sequence[Difference]) -> str:
    """Return the README's part on llama.cpp and Ollama."""
    side = processor.spec.image_side
    listed = "\n".join(f"- {item.stage}: {item.what}. To do: {item.remedy}." for item in differences)
    return f"""## Use with llama.cpp and Ollama

```bash
llama-server -m {language} --mmproj {projector} -c {CONTEXT} --temp 0
llama-mtmd-cli -m {language} --mmproj {projector} --image photo.jpg -p "What is shown?" --jinja --temp 0
ollama create my-model -f Modelfile
```

`{language}` is the language model with tokenizer and chat template. `{projector}` is the vision tower with the
projector; it takes images of {side}x{side} pixels.

llama.cpp computes this model differently from vistune:

{listed}
"""
