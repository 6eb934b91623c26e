"""Rows S01 to S20 that concern a server: keys, hosts, origins, pictures from elsewhere, what logs may hold."""

from __future__ import annotations

import ast
import asyncio
import base64
import inspect
import io
import logging
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import httpx2
import openai
import pytest
from reference import Bench, image
from running_servers import CHAT, Running, body, data_url, png, question, running, until

from vistune.errors import RecipeError
from vistune.serving.api import Limits, Settings, guard
from vistune.serving.api.fetch import Fetcher, is_public
from vistune.serving.api.guard import Refusal
from vistune.serving.api.server import check

KEY, OTHER = "sk-canary-0123456789", "sk-another-9876543210"


@pytest.fixture(scope="module")
def locked(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"# clients\n{KEY}\n\n{OTHER}\n")
    with running(bench, key_file=path) as found:
        yield found


def test_s01_beyond_loopback_only_with_keys(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(RecipeError, match="--api-key-file"):
            check(Settings(name="tiny", host=host))
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        assert check(Settings(name="tiny", host=host)) == ()
    assert Settings(name="tiny").host == "127.0.0.1"
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    assert len(check(Settings(name="tiny", host="0.0.0.0", key_file=keys))) == 1
    for wrong in ("", "# nothing\n", "short", "has a space in it"):
        keys.write_text(wrong)
        with pytest.raises(RecipeError, match="not a file of API keys"):
            check(Settings(name="tiny", key_file=keys))


def test_s02_every_route_but_health_and_the_pages_own_files_wants_a_key(locked: Running) -> None:
    app = locked.server.config.app.app
    paths = {route.path for route in app.routes}
    assert {"/health", "/ready", "/metrics", "/openapi.json", CHAT, "/v1/looks", "/v1/models", "/"} <= paths
    unlocked = {"/", "/health"} | {path for path in paths if path.startswith("/page/")}
    for path in [
        *paths - unlocked,
        "/nowhere",
        "/page/",
        "/page/nowhere",
        "/page/../metrics",
        "//health",
        "/health/",
        "/HEALTH",
        "/%2fhealth",
    ]:
        for method in ("GET", "POST", "HEAD", "OPTIONS"):
            response = locked.http.request(method, f"{locked.server.address}{path}")
            assert response.status_code == 401, (method, path)
    for path in unlocked:
        assert locked.http.get(path).status_code == 200
    assert locked.http.get("/metrics", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


@pytest.mark.parametrize("given", [
    "", KEY, f"Basic {KEY}", f"Bearer {KEY[:-1]}", f"Bearer {KEY}x", "Bearer", f"Bearer {KEY} {OTHER}",
    f"Bearer {KEY.upper()}", "Bearer # clients",
])  # fmt: skip
def test_h10_wrong_keys(locked: Running, given: str) -> None:
    response = locked.http.post(CHAT, json=body(), headers={"Authorization": given} if given else {})
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert KEY not in response.text


def test_keys_let_in_and_two_headers_do_not_help(locked: Running) -> None:
    for key in (KEY, OTHER):
        assert locked.client(key).chat.completions.create(**body()).choices
    with pytest.raises(openai.AuthenticationError):
        locked.client("sk-wrong-wrong").models.list()


def test_s03_hosts_do_not_open_doors(locked: Running) -> None:
    for host in ("localhost/health?", "x/health", "localhost:1/health#", "a@b/health"):
        answer = locked.raw(f"GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 400")
    named = f"GET /v1/models HTTP/1.1\r\nHost: ai.example\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n"
    assert locked.raw(named.encode()).startswith(b"HTTP/1.1 200"), "with keys any name is good"


def test_s04_keys_are_compared_in_constant_time() -> None:
    """By hashes of one length, every one of them, and never with ==."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(guard.Guard._knows)))
    assert "compare_digest" in ast.unparse(tree)
    compared = [node for node in ast.walk(tree) if isinstance(node, ast.Compare)]
    assert [ast.unparse(node) for node in compared] == ["scheme.lower() == 'bearer'"]
    assert len({len(guard.digest(key)) for key in ("a", KEY, "x" * 1000)}) == 1


def test_s17_headers_and_other_sites(served: Running) -> None:
    for response in (served.http.get("/health"), served.http.get("/nowhere"), served.ask(), served.ask(n=5)):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
        assert "access-control-allow-origin" not in response.headers
    host = served.server.address.removeprefix("http://")
    for origin, status in (
        ("https://evil.example", 403), ("null", 403), ("http://localhost", 403), (f"http://{host}", 200),
        (f"http://{host}.evil.example", 403),
    ):  # fmt: skip
        response = served.http.post(CHAT, json=body(), headers={"Origin": origin})
        assert response.status_code == status, origin


def test_s14_s15_no_key_text_or_picture_is_logged(locked: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shown = png(colour="#123456")
    allowed = {"Authorization": f"Bearer {KEY}"}
    asked = body(messages=question("a secret question\n\x1b[31m", data_url(shown)))
    assert locked.http.post(CHAT, json=asked, headers=allowed).status_code == 200
    locked.http.post(CHAT, json={**asked, "n": 3}, headers=allowed)
    locked.http.post(CHAT, json=asked, headers={"Authorization": f"Bearer {KEY}x"})
    locked.raw(b"GET /secret\x1b[31m HTTP/1.1\r\nHost: localhost\r\n\r\n")
    locked.http.get("/secret?key=" + KEY, headers=allowed)
    locked.http.request("SECRET", "/health")
    ours = ("vistune", "uvicorn", "fastapi", "starlette", "asyncio")  # the client logs what it likes

    def listed() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name.split(".")[0] in ours]

    until(lambda: any(" other /health 405 " in line for line in listed()))  # the last of the requests
    assert any(f" POST {CHAT} 200 " in line for line in listed())
    for secret in (KEY, "secret", "SECRET", base64.b64encode(shown).decode()[:40], "\x1b"):
        assert secret not in "\n".join(listed()), secret
    page = locked.http.get("/metrics", headers=allowed).text
    assert KEY not in page
    assert "secret" not in page
    assert 'vistune_rejects_total{reason="invalid_api_key"}' in page
    assert f'vistune_requests_total{{code="200",route="{CHAT}"}}' in page


@pytest.mark.parametrize("address", [
    "127.0.0.1", "10.0.0.1", "169.254.169.254", "192.168.0.1", "0.0.0.0", "::1", "::ffff:127.0.0.1", "fe80::1%eth0",
    "fc00::1", "100.64.0.1", "224.0.0.1", "2002:7f00:1::", "240.0.0.1", "64:ff9b::a00:1",
])  # fmt: skip
def test_s05_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)
    assert is_public("93.184.215.14")
    assert is_public("2606:4700::1111")


Answer = Callable[[httpx2.Request], httpx2.Response]


def fetch(url: str, answer: Answer, *, addresses: Sequence[str] = ("93.184.215.14",), seconds: float = 5) -> bytes:
    async def resolve(host: str) -> Sequence[str]:
        return addresses

    transport = httpx2.MockTransport(answer)
    fetcher = Fetcher(frozenset({"pictures.example"}), resolve=resolve, transport=transport, seconds=seconds)
    return asyncio.run(fetcher.image(url, "here"))


class Endless(httpx2.AsyncByteStream):
    """A body that comes in pieces: a whole one again and again, or once."""

    def __init__(self, piece: bytes, *, times: int = 2**30, pause: float = 0) -> None:
        self.piece, self.times, self.pause, self.sent = piece, times, pause, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(self.times):
            self.sent += len(self.piece)
            yield self.piece
            await asyncio.sleep(self.pause)


def image_answer(request: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, headers={"content-type": "image/png"}, stream=Endless(png(), times=1))


def never(request: httpx2.Request) -> httpx2.Response:
    raise AssertionError(f"asked {request.url}")


def test_s06_the_address_that_was_checked_is_the_one_connected_to() -> None:
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return image_answer(request)

    assert fetch("https://pictures.example/a.png?x=1", answer) == png()
    (request,) = asked
    assert (request.url.host, request.url.path, request.headers["host"]) == (
        "93.184.215.14",
        "/a.png",
        "pictures.example",
    )
    assert request.extensions["sni_hostname"] == "pictures.example"
    assert "authorization" not in request.headers


@pytest.mark.parametrize("url", [
    "http://pictures.example/a.png", "https://pictures.example:8443/a", "https://user@pictures.example/a",
    "https://pictures.example.evil.example/", "https://evil.example/pictures.example", "https://127.0.0.1/a",
    "https://pictures.example\\@127.0.0.1/", "https://evil.example\\@pictures.example/", "https://2130706433/",
    "https://0177.0.0.1/", "https://[::ffff:127.0.0.1]/", "file:///a", "gopher://pictures.example/",
    "//pictures.example/",
    "", "https://",
])  # fmt: skip
def test_s05_only_named_hosts_over_plain_https(url: str) -> None:
    with pytest.raises(Refusal) as caught:
        fetch(url, never)
    assert caught.value.status == 400


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["93.184.215.14", "10.0.0.1"], ["::1"], []])
def test_s06_a_host_with_one_private_address_is_refused(addresses: list[str]) -> None:
    with pytest.raises(Refusal, match="public address"):
        fetch("https://pictures.example/a.png", never, addresses=addresses)


def test_s07_redirects_size_kind_and_time() -> None:
    def redirecting(target: str) -> Answer:
        return lambda request: httpx2.Response(302, headers={"location": target})

    for target, said in (
        ("https://evil.example/a.png", "another host"), ("http://127.0.0.1/", "another host"),
        ("/again", "redirects more than 3"), ("http://pictures.example/a.png", "plain https"),
        ("https://pictures.example:port/", "could not be fetched"),
    ):  # fmt: skip
        with pytest.raises(Refusal, match=said):
            fetch("https://pictures.example/a.png", redirecting(target))

    def once(request: httpx2.Request) -> httpx2.Response:
        return image_answer(request) if request.url.path == "/b.png" else redirecting("/b.png")(request)

    assert fetch("https://pictures.example/a.png", once) == png()

    image = {"content-type": "image/png"}
    large = Endless(bytes(1 << 20))
    with pytest.raises(Refusal, match="larger than 10 MB"):
        fetch("https://pictures.example/a.png", lambda request: httpx2.Response(200, headers=image, stream=large))
    assert large.sent <= 12 << 20
    drip = Endless(b"x", pause=0.05)
    with pytest.raises(Refusal, match="did not come"):
        fetch("https://pictures.example/a", lambda r: httpx2.Response(200, headers=image, stream=drip), seconds=0.3)
    for response in (
        httpx2.Response(200, headers={"content-type": "text/html"}, stream=Endless(png())),
        httpx2.Response(404, headers=image, stream=Endless(png())),
    ):
        with pytest.raises(Refusal, match="gives no image"):
            fetch("https://pictures.example/a.png", lambda request, response=response: response)
    with pytest.raises(Refusal, match="sent compressed"):
        fetch("https://pictures.example/a", lambda r: httpx2.Response(
            200, headers={**image, "content-encoding": "gzip"}, stream=Endless(b"x")))  # fmt: skip


def test_s05_without_named_hosts_nobody_is_asked(served: Running) -> None:
    """A canary on loopback hears nothing, by name or by number."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as canary:
        canary.settimeout(0.2)
        port = canary.getsockname()[1]
        for url in (f"http://127.0.0.1:{port}/x.png", f"https://localhost:{port}/x.png", f"http://[::1]:{port}/"):
            assert served.ask(messages=question("?", url)).status_code == 400
        with pytest.raises(TimeoutError):
            canary.accept()


def test_fetched_pictures_are_seen_as_sent_ones_and_count_together(bench: Bench) -> None:
    async def resolve(host: str) -> Sequence[str]:
        return ["93.184.215.14"]

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "image/png"}, stream=Endless(noise, times=1))

    buffer = io.BytesIO()
    image(1).save(buffer, "PNG")
    noise = buffer.getvalue()
    limits = Limits(body_bytes=3 * len(noise))
    with running(bench, fetch_from=["pictures.example"], limits=limits) as found:
        found.service.fetcher = Fetcher(
            frozenset({"pictures.example"}), resolve=resolve, transport=httpx2.MockTransport(answer)
        )
        sent = found.ask(messages=question("?", data_url(noise))).json()["choices"][0]["message"]["content"]
        links = [f"https://pictures.example/{k}.png" for k in range(4)]
        assert found.ask(messages=question("?", links[0])).json()["choices"][0]["message"]["content"] == sent
        assert found.ask(messages=question("?", "https://other.example/a.png")).status_code == 400
        assert "larger than" in found.ask(messages=question("?", *links)).json()["error"]["message"]
        until(found.idle)
