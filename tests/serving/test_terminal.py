"""`vistune chat`: in a real terminal, in a pipe, and its commands; the model is tiny, random and real."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from reference import Bench
from terminal_keys import ALT_ENTER, BACKSPACE, CHAT, CTRL_C, CTRL_D, ECHO, PASTE, TAB, UP, Terminal

from vistune.api import check_data
from vistune.cli.model import chat as chat_verb
from vistune.errors import DataError, VistuneError
from vistune.generation import Assistant
from vistune.recipe import DataSource, Model, Recipe, Stage
from vistune.runs import checkpoint
from vistune.serving import chat as terminal
from vistune.serving.chat import COMMANDS, KEYS, ChatSession, chat
from vistune.serving.keyboard import Keyboard, printable
from vistune.translations import korean_texts


@pytest.fixture(scope="module")
def model(bench: Bench, tiny_backbones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder; its random model seldom ends an answer."""
    folder = tmp_path_factory.mktemp("chat") / "model"
    bench.stock.save_pretrained(folder.parent / "language")
    names = Model(vision=str(tiny_backbones / "vision"), language=str(folder.parent / "language"))
    recipe = Recipe(model=names, stages=(Stage(name="align", learn={"projector": 1e-3}, steps=1),))
    tensors = checkpoint.snapshot(bench.model, {"projector", "language"})
    checkpoint.save(folder, bench.model, bench.processor, recipe=recipe, tensors=tensors)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    Image.new("RGB", (60, 40), "red").save(tmp_path / "빨강 그림.png")
    Image.new("RGB", (32, 32), "blue").save(tmp_path / "b.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    return tmp_path


def test_a_conversation_in_a_terminal(model: Path, images: Path, tmp_path: Path) -> None:
    with Terminal(CHAT, "chat", model, "--image", images / "b.png", VISTUNE_CACHE=str(tmp_path)) as terminal:
        terminal.until(f"loading {model}", "[b.png, 32x32, 0 kB]")
        terminal.until_prompt()
        terminal.press(f"/image '{images}/빨강 그림.png' {images}/broken.png\r")
        terminal.until("broken.png: ")
        terminal.until_prompt()
        terminal.press(f"/image {images}/빨{TAB}\r")
        terminal.until("[빨강 그림.png, 60x40, 0 kB]", "[2 images are in the conversation")
        terminal.until_prompt()
        terminal.press("/temperature 0\r")  # the same answer each time, and a long one
        terminal.until("[temperature 0]")
        terminal.until_prompt()
        terminal.press("그림에 무엇이 있나요?\r")
        terminal.until("있나요?")
        terminal.more()  # the answer has begun
        terminal.press("다음 질문은 ")  # and is not mixed with this
        terminal.press(CTRL_C)
        terminal.until("[stopped]", "> 다음 질문은")
        terminal.press("몇 개인가요?")
        terminal.until("> 다음 질문은 몇 개인가요?")
        terminal.press(CTRL_C)
        terminal.until_prompt()
        terminal.press(CTRL_C)
        terminal.until("To leave, press Ctrl-D or write /quit.")
        terminal.until_prompt()
        terminal.press("/edit\r")
        terminal.until("> 그림에 무엇이 있나요?")
        terminal.press(BACKSPACE * 3 + "을까요?\r")
        terminal.until("> 그림에 무엇이 있을까요?")
        terminal.more()
        terminal.press(CTRL_C)
        terminal.until("[stopped]")
        terminal.until_prompt()
        terminal.press(f"/save {images}/said.jsonl\r")
        terminal.until("[saved to")
        terminal.press(CTRL_D)
        code, screen = terminal.end()
    assert code == 0
    assert "Traceback" not in screen
    assert screen.count("다음 질문은") == 1
    question, answer = json.loads((images / "said.jsonl").read_text(encoding="utf-8"))["messages"]
    parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "그림에 무엇이 있을까요?"}]
    assert (question["content"], answer["role"]) == (parts, "assistant")


@pytest.mark.parametrize("language", ["C", "C.UTF-8"])
def test_lines_are_edited_by_letters_and_remembered(language: str, tmp_path: Path) -> None:
    history = tmp_path / "chat_history"
    history.write_text("\n# a day\n+지난번\n", encoding="utf-8")
    history.chmod(0o644)
    (tmp_path / "그림.png").touch()
    (tmp_path / "그림.txt").touch()
    with Terminal(ECHO, VISTUNE_CACHE=str(tmp_path), LC_ALL=language) as terminal:
        terminal.until_prompt()
        terminal.press("안녕하세요" + BACKSPACE * 3 + "\r")
        terminal.until("<안녕>")
        terminal.until_prompt()
        terminal.press(UP + UP + "\r")
        terminal.until("<지난번>")
        terminal.until_prompt()
        terminal.press("half a line")
        terminal.until("> half a line")
        terminal.press(CTRL_C)
        terminal.until("<stopped>")
        terminal.until_prompt()
        terminal.press("/im" + TAB + f"{tmp_path}/그" + TAB + "\r")
        terminal.until(f"</image {tmp_path}/그림.png>")
    assert history.stat().st_mode & 0o777 == 0o600
    lines = [line for line in history.read_text(encoding="utf-8").splitlines() if line.startswith("+")]
    assert lines == ["+지난번", "+안녕", "+지난번", f"+/image {tmp_path}/그림.png"]


@pytest.mark.parametrize(
    ("keys", "lines"),
    [
        (PASTE.format("one\ntwo\r\nthree") + "\r", ("<one", "two", "three>")),
        (f"one{ALT_ENTER}two\r", ("<one", "two>")),
        ('"""one\rtwo"""\r', ("<one", "two>")),
    ],
)
def test_several_lines_are_one_question(keys: str, lines: tuple[str, ...], tmp_path: Path) -> None:
    with Terminal(ECHO, VISTUNE_CACHE=str(tmp_path)) as terminal:
        terminal.until_prompt()
        terminal.press(keys)
        terminal.until(*lines)
        terminal.until_prompt()
        terminal.press(UP + "\r")  # the history keeps them together
        terminal.until(*lines)


def test_a_block_in_a_pipe_is_one_question(talk: ChatSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO('"""\none\n\ntwo\n"""\nthree\n"""four\n'))
    keyboard = Keyboard()
    assert [keyboard.read("> "), keyboard.read("> ")] == ["one\n\ntwo", "three"]
    with pytest.raises(DataError, match="does not end"):
        keyboard.read("> ")
    with pytest.raises(EOFError):
        keyboard.read("> ")


def test_a_pipe_gives_answers_alone_on_stdout(model: Path, images: Path) -> None:
    command = [sys.executable, "-m", "vistune", "chat", str(model), "--image", str(images / "b.png")]
    typed = f"무슨 색?\n/image {images}/none.png\n/save {images}/said.jsonl\n".encode() + b"\xff\n"
    found = subprocess.run(command, input=typed, capture_output=True, timeout=300, check=False)
    assert found.returncode == 0, found.stderr
    notes = found.stderr.decode()
    assert "none.png: no such image" in notes
    assert "this line is not UTF-8 text" in notes
    assert "Traceback" not in notes
    question, answer = json.loads((images / "said.jsonl").read_text(encoding="utf-8"))["messages"]
    assert question["content"] == [{"type": "image"}, {"type": "text", "text": "무슨 색?"}]
    assert found.stdout.decode() == f"{printable(answer['content'][0]['text'])}\n"


def test_a_picture_option_that_is_none_ends_the_command(tmp_path: Path) -> None:
    """Before any weights are read: there is no model at all."""
    with pytest.raises(DataError, match=r"none\.png: no such image"):
        chat_verb(Path("nothing"), image=[tmp_path / "none.png"])


@pytest.fixture
def talk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> ChatSession:
    monkeypatch.setattr("vistune.serving.chat.MAX_TOKENS", 4)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    return ChatSession(Assistant(bench.model, bench.processor), Keyboard())


def test_pictures_stand_before_the_next_question_and_survive_a_reset(talk: ChatSession, images: Path) -> None:
    talk.take(f"/image {images}/b.png '{images}/빨강 그림.png'")
    talk.take("What?")
    talk.take("And?")
    assert [len(message.images) for message in talk.messages] == [2, 0, 0, 0]
    talk.take("/reset")
    assert (len(talk.images), talk.messages) == (2, [])
    talk.take("/reset all")
    assert talk.images == []


def test_the_answer_is_the_assistants(talk: ChatSession, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    talk.take(f"/image {images}/b.png")
    talk.take("/system You are brief.")
    talk.take("What?")
    parts = [{"type": "image", "image": images / "b.png"}, {"type": "text", "text": "What?"}]
    asked = [{"role": "system", "content": "You are brief."}, {"role": "user", "content": parts}]
    wanted = talk.assistant.chat(asked, max_tokens=4).text
    assert talk.messages[-1].text == wanted
    said = capsys.readouterr()
    assert said.out == printable(wanted) + "\n"
    assert "[cut after 4 tokens]" in said.err


def test_a_saved_conversation_is_data(talk: ChatSession, images: Path) -> None:
    with pytest.raises(DataError, match="nothing to save yet"):
        talk.take(f"/save {images}/said.jsonl")
    talk.take(f"/image {images}/b.png")
    talk.take("무엇?")
    talk.take(f"/save {images}/said.md")
    assert "**user**\n\n![](b.png)\n\n무엇?" in (images / "said.md").read_text(encoding="utf-8")
    talk.take(f"/save {images}/said.jsonl")
    row = json.loads((images / "said.jsonl").read_text(encoding="utf-8"))
    assert row["images"] == ["b.png"]
    assert check_data([DataSource(file=images / "said.jsonl")]).faults == []
    for refused in (f"{images}/said.jsonl", f"{images}/said.txt", ""):
        with pytest.raises(DataError):
            talk.take(f"/save {refused}".strip())


def test_the_last_question_is_asked_again_in_its_place(talk: ChatSession, images: Path) -> None:
    with pytest.raises(DataError, match="no earlier question"):
        talk.take("/retry")
    talk.take("First?")
    talk.take(f"/image {images}/b.png")
    talk.take("What?")
    first, answer, question, _ = talk.messages
    talk.take("/temperature 1.5")
    talk.take(f"/image '{images}/빨강 그림.png'")
    talk.take("/retry")
    assert talk.messages[:3] == [first, answer, question]
    talk.take("/edit Where?")
    assert [message.text for message in talk.messages[:3:2]] == ["First?", "Where?"]
    assert talk.messages[2].images == question.images
    assert (len(talk.messages), len(talk.images)) == (4, 1)  # the new image waits for the next question
    with pytest.raises(DataError, match="write /edit QUESTION"):
        talk.take("/edit")
    talk.take("/reset")
    with pytest.raises(DataError, match="no earlier question"):
        talk.take("/edit Where?")


def test_an_answer_that_fails_leaves_the_earlier_one(talk: ChatSession) -> None:
    talk.take("What?")
    before = list(talk.messages)
    with pytest.raises(VistuneError, match="shorten"):
        talk.take(f"/edit {'가' * 2000}")
    assert talk.messages == before
    talk.take("/retry")
    assert talk.messages[0] == before[0]


@pytest.mark.parametrize(
    "line", ["/nothing", "/image", "/image 'a", "/reset some", "/temperature -1", "/temperature nan", "/save"]
)
def test_what_cannot_be_done_is_an_error_that_changes_nothing(talk: ChatSession, line: str) -> None:
    with pytest.raises(DataError):
        talk.take(line)
    assert (talk.messages, talk.images, talk.temperature) == ([], [], 0.0)


def test_a_conversation_that_grew_too_long_says_so_and_goes_on(
    talk: ChatSession, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("가" * 2000 + "\nWhat?\n"))
    chat(talk.assistant)
    said = capsys.readouterr()
    assert "shorten the conversation" in said.err
    assert said.out.endswith("\n")


def test_control_characters_of_a_model_are_not_obeyed() -> None:
    assert printable("a\x1b[2J\x9b\r가\n\t") == "a�[2J��가\n\t"


def test_help_names_every_command(talk: ChatSession, capsys: pytest.CaptureFixture[str]) -> None:
    talk.take("/help")
    said = capsys.readouterr().err
    assert all(verb in said for verb in COMMANDS)
    assert {"/image", "/reset", "/system", "/temperature", "/save", "/help"} <= set(COMMANDS)


def test_it_speaks_korean_to_whoever_reads_korean(
    bench: Bench, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = ChatSession(Assistant(bench.model, bench.processor), Keyboard(), language="ko")
    for line in (
        "/help",
        f"/image {images}/b.png",
        "/reset",
        "/system 짧게 답하세요.",
        "/temperature 0.5",
        "/reset all",
    ):
        talk.take(line)
    said = capsys.readouterr().err.splitlines()
    assert "[새 대화, 이미지: b.png]" in said
    assert "[새 대화, 이미지: 없음]" in said
    assert all(re.search("[가-힣]", line) for line in said if line != "[b.png, 32x32, 0 kB]")


def test_every_word_of_the_terminal_has_its_korean() -> None:
    source = Path(terminal.__file__).read_text(encoding="utf-8")
    noted = set(re.findall(r'(?:session|self)\.note\(\s*"([^"]+)"', source)) | {
        command.about for command in COMMANDS.values()
    }
    noted |= set(KEYS.values())
    assert noted <= set(korean_texts())
