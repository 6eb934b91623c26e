"""`vistune generate` with services that refuse, stream, think or wrap replies, before and after they are fixed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fake_teacher import TEXTS, Behaviour, FakeTeacher, Request, completion, good, streamed
from PIL import Image

from vistune.cli import app as cli
from vistune.llm_client import Journal

KEY = "sk-CANARY-9876"  # shorter than many
WORDS = "the words of this very service"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images with a caption and a box, and prices of the model `m`."""
    rows = []
    for k in range(12):
        Image.new("RGB", (32, 32), (20 * k, 0, 0)).save(tmp_path / f"{k}.jpg")
        rows.append({"image": f"{k}.jpg", "captions": [f"Scene {k}."], "boxes": [["dog", 0.1, 0.1, 0.5, 0.9]]})
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "prices.yaml").write_text("models: {m: {input: 10, output: 100}}\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def teacher() -> Iterator[FakeTeacher]:
    fake = FakeTeacher()
    yield fake
    fake.close()


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


class Command:
    """`vistune generate` as run from a shell, with one detail and one conversation per image."""

    def __init__(self, folder: Path, teacher: FakeTeacher, capfd: pytest.CaptureFixture[str], patch: Any) -> None:
        self.folder, self.teacher, self.capfd, self.patch = folder, teacher, capfd, patch
        self.out = folder / "out"

    def __call__(self, *more: str, out: Path | None = None) -> Done:
        asked = [
            "--teacher",
            "openai",
            "--model",
            "m",
            "--base-url",
            self.teacher.url,
            "--kinds",
            "detail,conversation",
        ]
        prices = ["--prices", str(self.folder / "prices.yaml")]
        argv = ["vistune", "generate", str(self.folder / "mine.jsonl"), "--out", str(out or self.out)]
        self.patch.setattr("sys.argv", [*argv, *asked, *prices, *more])
        self.capfd.readouterr()
        code: Any = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        said = self.capfd.readouterr()
        assert KEY not in said.out + said.err
        for path in self.out.rglob("*"):
            assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
        return Done(int(code or 0), said.out, " ".join(said.err.split()))

    def rows(self) -> list[dict[str, Any]]:
        return json.loads((self.out / "samples.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]

    def rejects(self) -> list[dict[str, Any]]:
        lines = (self.out / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def records(self) -> list[dict[str, Any]]:
        journal = Journal(self.out)
        try:
            return [dict(record) for _, record in journal.records()]
        finally:
            journal.close()


@pytest.fixture
def generate(
    folder: Path, teacher: FakeTeacher, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("LANG", "C")
    return Command(folder, teacher, capfd, monkeypatch)


def refusal(status: int, body: Any) -> Behaviour:
    return Behaviour(status, body if isinstance(body, bytes) else json.dumps(body).encode())


FORMS: dict[str, Any] = {
    "OpenAI": {"error": {"message": WORDS, "type": "invalid_request_error", "code": "bad", "param": None}},
    "a text": {"error": WORDS},
    "Gemini": [{"error": {"code": 400, "message": WORDS, "status": "INVALID_ARGUMENT"}}],
    "vLLM": {"object": "error", "message": WORDS, "type": "BadRequestError", "param": None, "code": 400},
    "FastAPI, a text": {"detail": WORDS},
    "FastAPI, a list": {"detail": [{"loc": ["body", "messages", 0], "msg": WORDS, "type": "value_error"}]},
    "FastAPI, an object": {"detail": {"error": {"message": WORDS}}},
    "a message": {"message": WORDS, "request_id": "r"},
    "errors": {"errors": [{"message": WORDS, "code": 7}]},
    "errors of texts": {"errors": [WORDS]},
    "OpenRouter's provider": {"error": {"message": "Provider returned error", "code": 400,
                              "metadata": {"raw": json.dumps({"error": {"message": WORDS}})}}},
    "JSON in a text": {"error": json.dumps({"message": WORDS})},
    "plain text": WORDS.encode(),
    "HTML": f"<!doctype html><html><head><style>p {{}}</style></head><body><h1>{WORDS}</h1></body></html>".encode(),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("status", [400, 422])
def test_a_run_that_is_refused_stops_early_with_the_services_message_and_runs_when_fixed(
    generate: Command, teacher: FakeTeacher, form: str, status: int
) -> None:
    teacher.behave = lambda request: refusal(status, FORMS[form])
    done = generate()
    assert done.code == 2
    assert WORDS in done.err
    assert str(status) in done.err
    assert 3 <= len(teacher.asked) <= 5
    assert not (generate.out / "samples.json").exists()
    teacher.behave = lambda request: Behaviour()
    assert generate().code == 0
    assert len(generate.rows()) == 24


def error(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, **fields}}


VLLM_LENGTH = (
    "'max_tokens' or 'max_completion_tokens' is too large: 1024. This model's maximum context length is 1024 tokens"
)
WHOLE: dict[str, tuple[int, Any, int]] = {
    "context": (400, error(f"This model's maximum context length is 512 tokens, {WORDS}", code=400), 5),
    "context, vLLM": (400, error(f"{VLLM_LENGTH}, {WORDS}", param="max_tokens", code=400), 5),
    "context, llama.cpp": (400, error(WORDS, code=400, type="exceed_context_size_error"), 5),
    "key": (400, error(f"Incorrect API key provided: {KEY}. {WORDS}", code="invalid_api_key"), 1),
    "key, Gemini": (400, [error(f"API key not valid. {WORDS}", code=400, status="INVALID_ARGUMENT")], 1),
    "key, 403": (403, {"error": f"Invalid API key, {WORDS}"}, 1),
    "model": (400, error(f"The model `m` does not exist, {WORDS}"), 1),
    "model, Ollama": (404, {"error": f"model 'm' not found, {WORDS}"}, 1),
    "OpenRouter, 401 in a 200": (200, error(WORDS, code=401), 1),
    "OpenRouter, 400 in a 200": (200, error(WORDS, code=400), 5),
    "range": (400, error(f"temperature must be between 0 and 0.5, {WORDS}", param="temperature"), 5),
    "too large": (400, error(f"max_tokens is too large: 768, {WORDS}", param="max_tokens", code="invalid_value"), 5),
    "a parameter that is needed": (400, error(f"Unsupported parameter: 'messages', {WORDS}"), 5),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_concerns_the_run_ends_it(generate: Command, teacher: FakeTeacher, name: str) -> None:
    status, body, most = WHOLE[name]
    teacher.behave = lambda request: refusal(status, body)
    done = generate()
    assert done.code == 2, done.err
    assert WORDS in done.err
    assert len(teacher.asked) <= most
    if "key" in name:
        assert "check the key" in done.err
    teacher.behave = lambda request: Behaviour()
    assert generate("--max-tokens", "200").code == 0, "a journal without answers holds no one to its parameters"
    assert len(generate.rows()) == 24


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": 402, "message": WORDS}},
        {"error": {"code": "insufficient_quota", "message": WORDS}},
        {"error": {"message": f"Your credit balance is too low, {WORDS}"}},
    ],
)
@pytest.mark.parametrize("status", [200, 400])
def test_a_spent_quota_in_any_body_ends_with_4(generate: Command, teacher: FakeTeacher, status: int, body: Any) -> None:
    teacher.behave = lambda request: refusal(status, body)
    if status == 400:
        teacher.behave = lambda request: refusal(402, body)
    done = generate()
    assert (done.code, len(teacher.asked)) == (4, 1)
    assert WORDS in done.err


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": 429, "message": "slow down"}},
        {"error": {"code": "rate_limit_exceeded", "message": "slow down"}},
        [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "slow down"}}],
        {"error": {"code": 503, "message": "no provider is free"}},
    ],
)
def test_a_200_that_is_a_limit_or_an_outage_is_waited_for(generate: Command, teacher: FakeTeacher, body: Any) -> None:
    teacher.behave = lambda request: refusal(200, body) if request.number == 1 else Behaviour()
    done = generate()
    assert done.code == 0, done.err
    assert len(generate.rows()) == 24
    assert len(teacher.asked) == 25


def wants(field: str, other: str) -> Callable[[Request], Behaviour]:
    """OpenAI's reasoning models."""
    message = f"Unsupported parameter: '{field}' is not supported with this model. Use '{other}' instead."
    body = {
        "error": {"message": message, "type": "invalid_request_error", "param": field, "code": "unsupported_parameter"}
    }
    return lambda request: refusal(400, body) if field in request.tree else Behaviour()


def lacks(field: str, body: Any, status: int = 400) -> Callable[[Request], Behaviour]:
    return lambda request: refusal(status, body) if field in request.tree else Behaviour()


def forbidden(field: str) -> Any:
    return {"detail": [{"type": "extra_forbidden", "loc": ["body", field], "msg": "Extra inputs are not permitted"}]}


def only_streams(body: Any, status: int = 400) -> Callable[[Request], Behaviour]:
    return lambda request: streamed(good(request.tree)) if request.tree.get("stream") else refusal(status, body)


DEFAULT_ONLY = (
    "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) is supported."
)
KIMI = "invalid temperature: only 1 is allowed for this model"
CLAUDE = "`temperature` is deprecated for this model."
INSTEAD = "max_tokens is not supported, use max_completion_tokens"
DASHSCOPE = "This model only support stream mode, please enable the stream parameter to access the model."
QWEN = "parameter.enable_thinking must be set to false for non-streaming calls"
MISSING = {"detail": [{"loc": ["body", "max_completion_tokens"], "msg": "Field required", "type": "missing"}]}
STREAM_422 = {"detail": [{"loc": ["body", "stream"], "msg": "Input should be True"}]}


def needs_other_field(request: Request) -> Behaviour:
    return Behaviour() if "max_completion_tokens" in request.tree else refusal(422, MISSING)


def takes_no_system(request: Request) -> Behaviour:
    if request.tree["messages"][0]["role"] == "system":
        return refusal(400, {"object": "error", "message": "System role not supported", "code": 400})
    return Behaviour()


RENAMED, DROPPED = "takes max_completion_tokens in place of max_tokens", "refuses temperature, which is left out"
ADAPTED: dict[str, tuple[Callable[[Request], Behaviour], str]] = {
    "max_tokens": (wants("max_tokens", "max_completion_tokens"), RENAMED),
    "max_tokens, 422": (lacks("max_tokens", forbidden("max_tokens"), 422), RENAMED),
    "max_tokens, a text": (lacks("max_tokens", {"error": INSTEAD}), RENAMED),
    "max_completion_tokens missing": (needs_other_field, RENAMED),
    "temperature": (lacks("temperature", error(DEFAULT_ONLY, param="temperature", code="unsupported_value")), DROPPED),
    "temperature, Kimi": (lacks("temperature", error(KIMI)), DROPPED),
    "temperature, Anthropic": (lacks("temperature", error(CLAUDE)), DROPPED),
    "temperature, 422": (lacks("temperature", forbidden("temperature"), 422), DROPPED),
    "temperature, in a 200": (lacks("temperature", error("temperature is not supported", code=400), 200), DROPPED),
    "streaming": (only_streams(error("only streaming is supported")), "only streams"),
    "streaming, DashScope": (only_streams(error(DASHSCOPE)), "only streams"),
    "streaming, Qwen": (only_streams(error(QWEN)), "only streams"),
    "streaming, Codex": (only_streams({"detail": "Stream must be set to true"}), "only streams"),
    "streaming, 422": (only_streams(STREAM_422, 422), "only streams"),
    "system": (takes_no_system, "takes no system message"),
}


@pytest.mark.parametrize("name", ADAPTED)
def test_a_refused_parameter_is_adapted_once_for_the_whole_run_and_the_next_one(
    generate: Command, teacher: FakeTeacher, name: str
) -> None:
    behave, words = ADAPTED[name]
    teacher.behave = behave
    done = generate("--limit", "6", "--budget", "5")
    assert done.code == 0, done.err
    assert done.err.count("the service ") == 1
    assert words in done.err
    assert len(generate.rows()) == 12
    assert len(teacher.asked) == 13, "one refusal, and every request once"
    keys = {record["key"] for record in generate.records() if record["t"] == "reply"}
    spent = json.loads((generate.out / "generate.json").read_text(encoding="utf-8"))["spent"]
    assert (spent["dollars"], spent["maybe_dollars"]) == (pytest.approx(12 * 0.021), 0)
    done = generate("--budget", "5")
    assert done.code == 0
    assert done.err.count("as an earlier run learned, the service ") == 1
    assert done.err.count("the service ") == 1
    assert words in done.err
    assert len(generate.rows()) == 24
    assert len(teacher.asked) == 25, "the next run begins with what was learned and asks nothing twice"
    assert keys < {record["key"] for record in generate.records() if record["t"] == "reply"}
    assert "the service " not in generate("--budget", "5").err, "nothing is sent"
    assert len(teacher.asked) == 25


def test_a_service_that_refuses_everything_it_can_is_adapted_step_by_step(
    generate: Command, teacher: FakeTeacher
) -> None:
    def behave(request: Request) -> Behaviour:
        tree = request.tree
        if "max_tokens" in tree:
            return wants("max_tokens", "max_completion_tokens")(request)
        if "temperature" in tree:
            return refusal(400, {"error": {"message": DEFAULT_ONLY}})
        if not tree.get("stream"):
            return refusal(400, {"error": "stream must be true"})
        if "stream_options" in tree:
            return refusal(400, {"error": "Unrecognized request argument supplied: stream_options"})
        return streamed(good(tree), usage=False)

    teacher.behave = behave
    done = generate("--budget", "9")
    assert done.code == 0, done.err
    assert len(generate.rows()) == 24
    assert len(teacher.asked) == 24 + 4
    assert done.err.count("the service ") == 4
    assert sorted(teacher.asked[-1].tree) == ["max_completion_tokens", "messages", "model", "stream"]


def test_a_service_that_changes_its_mind_while_many_are_under_way_refuses_nobody(
    generate: Command, teacher: FakeTeacher
) -> None:
    def behave(request: Request) -> Behaviour:
        if request.number < 6:
            return Behaviour()
        answer = wants("max_tokens", "max_completion_tokens")(request)
        return Behaviour(answer.status, answer.body, delay=0.1)

    teacher.behave = behave
    done = generate("--concurrency", "8")
    assert done.code == 0, done.err
    assert len(generate.rows()) == 24
    assert done.err.count("the service ") == 1
    assert 25 <= len(teacher.asked) <= 24 + 8


def test_a_parameter_that_is_refused_in_every_form_ends_the_run(generate: Command, teacher: FakeTeacher) -> None:
    def behave(request: Request) -> Behaviour:
        field = "max_tokens" if "max_tokens" in request.tree else "max_completion_tokens"
        return refusal(400, {"error": {"message": f"Unsupported parameter: {field}", "param": field}})

    teacher.behave = behave
    done = generate()
    assert done.code == 2
    assert "Unsupported parameter: max_completion_tokens" in done.err
    assert len(teacher.asked) <= 5


REFUSED_ALONE = {
    "content filter": (400, {"error": {"code": "content_filter", "message": f"content management policy, {WORDS}"}}),
    "moderation": (403, {"error": {"code": 403, "message": f"Your input was flagged, {WORDS}"}}),
    "too long": (400, {"error": {"message": f"This model's maximum context length is 512 tokens, {WORDS}"}}),
    "an image": (400, {"error": {"message": f"Could not process image, {WORDS}"}}),
}


@pytest.mark.parametrize("name", REFUSED_ALONE)
@pytest.mark.parametrize("scene", ["Scene 0.", "Scene 7."])
def test_a_refusal_of_one_image_rejects_that_image_alone(
    generate: Command, teacher: FakeTeacher, name: str, scene: str
) -> None:
    refused = refusal(*REFUSED_ALONE[name])
    teacher.behave = lambda request: refused if scene in request.body.decode() else Behaviour()
    done = generate()
    assert done.code == 0, done.err
    assert len(generate.rows()) == 22
    assert [(r["reason"], WORDS in r["detail"]) for r in generate.rejects()] == [("refused_by_service", True)] * 2
    assert WORDS in " ".join(done.out.split())
    asked = len(teacher.asked)
    assert generate().code == 0
    assert len(teacher.asked) == asked + 2, "only the refused ones are asked again"
    teacher.behave = lambda request: Behaviour()
    assert generate().code == 0
    assert len(generate.rows()) == 24


def test_an_older_journal_with_refusals_is_read_and_its_refusals_are_asked_again(
    generate: Command, teacher: FakeTeacher
) -> None:
    """The form before refusals were asked again: a failure record of the kind `refused`."""
    teacher.behave = lambda r: refusal(400, {"error": "no"}) if "Scene 3." in r.body.decode() else Behaviour()
    assert generate().code == 0
    path = generate.out / "journal.jsonl"
    kinds = [record.get("kind") for record in generate.records() if record["t"] == "failure"]
    assert kinds == ["refused"] * 2
    assert b'"t":"dialect"' not in path.read_bytes()
    teacher.behave = lambda request: Behaviour()
    assert generate().code == 0
    assert len(generate.rows()) == 24


def test_the_options_reach_every_request_and_a_change_of_them_is_noticed(
    generate: Command, teacher: FakeTeacher
) -> None:
    extra = '{"enable_thinking": false, "chat_template_kwargs": {"thinking": "off"}}'
    options = ["--extra-body", extra, "--max-tokens", "3000", "--temperature", "0.1"]
    assert generate(*options).code == 0
    for request in teacher.asked:
        tree = request.tree
        assert tree["enable_thinking"] is False
        assert tree["chat_template_kwargs"] == {"thinking": "off"}
        assert (tree["max_tokens"], tree["temperature"]) == (3000, 0.1)
    assert generate(*options).code == 0
    assert len(teacher.asked) == 24
    for other in (options[2:], [*options[:2], *options[4:]], options[:4], ["--extra-body", "{}", *options[2:]]):
        done = generate(*other)
        assert done.code == 2
        assert "contains answers that were given with another model" in done.err
    header = next(record for record in generate.records() if record["t"] == "header")["header"]
    assert header["parameters"]["extra_body"] == json.loads(extra)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--extra-body", '{"model": "x"}'], "`model` is set by --model"),
        (["--extra-body", '{"messages": []}'], "`messages` is set by the prompts"),
        (["--extra-body", '{"stream": true}'], "`stream` is set by the service"),
        (["--extra-body", '{"n": 2}'], "`n` is set by"),
        (["--extra-body", '{"max_tokens": 2}'], "`max_tokens` is set by --max-tokens"),
        (["--extra-body", '{"temperature": 0}'], "`temperature` is set by --temperature"),
        (["--extra-body", "[1]"], "is not a JSON object"),
        (["--extra-body", "{enable_thinking: false}"], "is not JSON"),
        (["--extra-body", '{"x": NaN}'], "NaN is not JSON"),
        (["--extra-body", ""], "is not JSON"),
        (["--max-tokens", "0"], "max-tokens"),
    ],
)
def test_a_wrong_option_is_named_before_anything_is_asked(
    generate: Command, teacher: FakeTeacher, options: list[str], words: str
) -> None:
    done = generate(*options)
    assert done.code == 2
    assert words in done.err
    assert not teacher.asked


def test_a_field_of_the_users_own_that_is_refused_is_never_left_out(generate: Command, teacher: FakeTeacher) -> None:
    body = {"error": {"message": "Unrecognized request argument supplied: enable_thinking", "param": "enable_thinking"}}
    teacher.behave = lacks("enable_thinking", body)
    done = generate("--extra-body", '{"enable_thinking": false}')
    assert done.code == 2
    assert "Unrecognized request argument supplied: enable_thinking" in done.err
    assert "change or remove enable_thinking in --extra-body" in done.err
    assert generate().code == 0, "nothing was answered, so nothing drifts"


REFUSED_VALUES = {
    "5": "temperature must be 2 or less",
    "0.3": "Unsupported value: 'temperature' does not support 0.3 with this model. Only the default (1) is supported.",
    "0": "Unsupported parameter: 'temperature' is not supported with this model.",
}


@pytest.mark.parametrize("value", REFUSED_VALUES)
def test_a_temperature_of_the_users_own_that_is_refused_ends_the_run(
    generate: Command, teacher: FakeTeacher, value: str
) -> None:
    teacher.behave = lacks("temperature", error(REFUSED_VALUES[value], param="temperature"))
    done = generate("--temperature", value)
    assert done.code == 2
    assert REFUSED_VALUES[value] in done.err
    assert "change or remove --temperature" in done.err
    assert all(request.tree["temperature"] == float(value) for request in teacher.asked)


def test_a_value_that_the_user_sets_later_is_sent_although_the_journal_leaves_the_field_out(
    generate: Command, teacher: FakeTeacher
) -> None:
    teacher.behave = lacks("temperature", error(DEFAULT_ONLY, param="temperature"))
    assert generate("--limit", "3").code == 0
    asked = len(teacher.asked)
    teacher.behave = lambda request: Behaviour()
    assert generate("--temperature", "0.3", "--allow-drift").code == 0
    assert len(teacher.asked) > asked
    assert all(request.tree["temperature"] == 0.3 for request in teacher.asked[asked:])


def test_a_length_of_the_users_own_that_is_refused_is_not_sent_under_another_name(
    generate: Command, teacher: FakeTeacher
) -> None:
    teacher.behave = lacks("max_tokens", error("max_tokens is invalid: 100000"))
    done = generate("--max-tokens", "100000")
    assert done.code == 2
    assert "max_tokens is invalid: 100000" in done.err
    assert all(request.tree["max_tokens"] == 100000 for request in teacher.asked)


def test_a_run_that_wrote_nothing_ends_with_3_its_reasons_and_its_files(
    generate: Command, teacher: FakeTeacher
) -> None:
    flagged = {"error": {"code": "content_filter", "message": WORDS}}
    teacher.behave = lambda request: refusal(400, flagged)
    done = generate()
    assert done.code == 3
    assert "no sample was written, 24 rejected (24 refused_by_service)" in done.err
    assert WORDS in done.err
    assert len(generate.rejects()) == 24
    assert generate.rows() == []
    assert (generate.out / "report.html").exists()
    done = generate("--json")
    assert done.code == 3
    counted = json.loads(done.out)
    assert (counted["samples"], counted["rejected"], counted["reasons"]) == (0, 24, {"refused_by_service": 24})
    teacher.behave = lambda request: Behaviour()
    assert generate().code == 0


def test_replies_that_are_all_bad_end_with_3_and_show_one(generate: Command, teacher: FakeTeacher) -> None:
    teacher.behave = lambda request: Behaviour(body=completion("<think>Let me see"))
    done = generate("--tries", "1")
    assert done.code == 3
    assert "24 thinking" in done.err
    assert "Let me see" in done.err


def test_a_reply_that_is_cut_off_while_thinking_says_what_to_do(generate: Command, teacher: FakeTeacher) -> None:
    cut = json.loads(completion("", finish_reason="length"))
    cut["choices"][0]["message"]["reasoning_content"] = "The user wants"
    teacher.behave = lambda request: Behaviour(body=json.dumps(cut).encode())
    done = generate("--tries", "1")
    assert done.code == 3
    assert "cut off while thinking: raise --max-tokens, or --extra-body '{\"enable_thinking\": false}'" in done.err


def test_the_refusal_of_a_whole_run_is_reported_in_korean(generate: Command, teacher: FakeTeacher) -> None:
    teacher.behave = lambda request: refusal(400, error(WORDS))
    generate.patch.setenv("LANG", "ko_KR.UTF-8")
    done = generate()
    assert done.code == 2
    assert f"처음 3개 요청을 모두 거부했습니다. 서비스의 메시지: 400 {WORDS}" in done.err
    assert "같은 명령을 다시 실행하세요" in done.err


def test_the_rule_teacher_ends_with_3_too_and_is_run_again_over_nothing(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "mine.jsonl").write_text('{"image": "0.jpg", "captions": ["A dog."]}\n', encoding="utf-8")
    argv = ["vistune", "generate", str(folder / "mine.jsonl"), "--out", str(folder / "out"), "--kinds", "detail"]
    monkeypatch.setattr("sys.argv", argv)
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 3
        said = " ".join(capfd.readouterr().err.split())
        assert "no sample was written, 1 rejected (1 too_little_known)" in said
        assert "captions and boxes do not say enough for this kind" in said
    monkeypatch.setattr("sys.argv", [*argv, "--max-tokens", "9"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "only used with --teacher openai" in capfd.readouterr().err


DETAIL, TALK = TEXTS["en"]["detail"], TEXTS["en"]["conversation"]


def test_a_thinking_model_gives_the_samples_of_one_that_does_not_and_its_thoughts_are_kept(
    generate: Command, teacher: FakeTeacher
) -> None:
    assert generate(out=generate.folder / "plain").code == 0
    plain = (generate.folder / "plain" / "samples.json").read_bytes()

    def behave(request: Request) -> Behaviour:
        tree = json.loads(good(request.tree))
        text = tree["choices"][0]["message"]["content"]
        tree["choices"][0]["message"]["content"] = f"<think>I look at the boxes.</think>\n\n<answer>\n{text}\n</answer>"
        return Behaviour(body=json.dumps(tree).encode())

    teacher.behave = behave
    assert generate().code == 0
    assert (generate.out / "samples.json").read_bytes() == plain
    kept = [record["body"] for record in generate.records() if record["t"] == "reply"]
    assert len(kept) == 24
    assert all("I look at the boxes." in body for body in kept)


def test_a_stream_is_kept_whole_with_its_thoughts(generate: Command, teacher: FakeTeacher) -> None:
    def behave(request: Request) -> Behaviour:
        if not request.tree.get("stream"):
            return refusal(400, {"error": "stream must be true"})
        tree = json.loads(good(request.tree))
        tree["choices"][0]["message"]["reasoning_content"] = "The boxes say a dog."
        return streamed(json.dumps(tree).encode())

    teacher.behave = behave
    assert generate().code == 0
    assert len(generate.rows()) == 24
    kept = [json.loads(record["body"]) for record in generate.records() if record["t"] == "reply"]
    assert all(tree["choices"][0]["message"]["reasoning_content"] == "The boxes say a dog." for tree in kept)
    assert "The boxes say" not in (generate.out / "samples.json").read_text(encoding="utf-8")


def test_a_stream_with_a_broken_chunk_is_asked_again(generate: Command, teacher: FakeTeacher) -> None:
    def behave(request: Request) -> Behaviour:
        whole = streamed(good(request.tree))
        if request.number > 2:
            return whole
        lines = (whole.body or b"").split(b"\n\n")
        lines[5] = lines[5][: len(lines[5]) // 2]
        return Behaviour(body=b"\n\n".join(lines), headers=whole.headers)

    teacher.behave = behave
    assert generate().code == 0
    assert len(teacher.asked) == 24 + 3
    again = (generate.out / "samples.json").read_bytes()
    teacher.behave = lambda request: Behaviour()
    plain = generate.folder / "plain"
    assert generate(out=plain).code == 0
    assert (plain / "samples.json").read_bytes() == again
