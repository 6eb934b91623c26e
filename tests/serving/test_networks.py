"""Test networks that break, drip or lag: the client gets an error or the whole answer, and the slot is freed."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx2
import pytest
from running_servers import CHAT, PATIENCE, Running, body, question, until
from server_events import event_texts

LONG: dict[str, Any] = {"stream": True, "max_tokens": 120, "temperature": 1.5, "seed": 3, "messages": question()}


class Proxy:
    """Between client and server on loopback; `hinder` is called before each piece of the answer goes on.

    It gets the client's socket and how many bytes have passed; False ends both connections.
    """

    def __init__(self, server: tuple[str, int], hinder: Callable[[socket.socket, int], bool], piece: int) -> None:
        self.server, self.hinder, self.piece = server, hinder, piece
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listening.accept()
                server = socket.create_connection(self.server)
                threading.Thread(target=self._there, args=(client, server), daemon=True).start()
                threading.Thread(target=self._back, args=(client, server), daemon=True).start()

    def _there(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                server.sendall(data)
        with suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def _back(self, client: socket.socket, server: socket.socket) -> None:
        passed = 0
        with suppress(OSError):
            while (data := server.recv(self.piece)) and self.hinder(client, passed):
                client.sendall(data)
                passed += len(data)
        for connection in (client, server):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


@contextmanager
def through(
    found: Running, hinder: Callable[[socket.socket, int], bool], *, piece: int = 256
) -> Iterator[httpx2.Client]:
    proxy = Proxy(found.server.socket.getsockname()[:2], hinder, piece)
    try:
        with httpx2.Client(base_url=proxy.address, timeout=PATIENCE, trust_env=False) as client:
            yield client
    finally:
        proxy.listening.close()


def cut(client: socket.socket, passed: int) -> bool:
    return passed < 600


def reset(client: socket.socket, passed: int) -> bool:
    if passed >= 600:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return passed < 600


def lag(client: socket.socket, passed: int) -> bool:
    time.sleep(0.05)
    return True


def drip(client: socket.socket, passed: int) -> bool:
    """64 bytes every 20 ms: 3 KB a second, far less than the answer makes."""
    time.sleep(0.02)
    return True


@pytest.mark.parametrize("hinder", [cut, reset])
def test_a_broken_connection_is_an_error_to_the_client_and_frees_the_slot(served: Running, hinder: Any) -> None:
    with through(served, hinder) as client, pytest.raises(httpx2.TransportError):
        client.post(CHAT, json=body(**LONG))
    until(served.idle)
    assert served.ask().status_code == 200


@pytest.mark.parametrize(("hinder", "piece"), [(lag, 4096), (drip, 64)])
def test_a_slow_network_delivers_the_whole_answer(served: Running, hinder: Any, piece: int) -> None:
    direct = "".join(event_texts(served.http.post(CHAT, json=body(**LONG)).text))
    with through(served, hinder, piece=piece) as client:
        slow = client.post(CHAT, json=body(**LONG)).text
    assert slow.endswith("data: [DONE]\n\n")
    assert "".join(event_texts(slow)) == direct
    until(served.idle)
