"""HTTP/1.1 as uvicorn speaks it, with an end to what a slow client may hold.

Headers that do not come are cut, and an answer that is not read is dropped with its connection.
"""

from __future__ import annotations

import asyncio
import sys
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from vistune.serving.api.limits import Limits


class Protocol(H11Protocol):
    limits: ClassVar[Limits] = Limits()
    _head: asyncio.TimerHandle | None = None
    _write: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.access_log = False  # it would repeat what clients write in paths
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head, self._write):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write = self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write is not None:
            self._write.cancel()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():  # closing would wait for a reader who does not read
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """h11 says by which status it refuses: 431 where the headers are too long."""
        error = sys.exc_info()[1]
        status = getattr(error, "error_status_hint", 400)
        body = b'{"error": {"message": "not HTTP as it is read here", "type": "invalid_request_error", "param": null, '
        body += b'"code": "invalid_http"}}'
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _await_head(self) -> None:
        """The clock runs while a request's headers are not complete."""
        waits = self.conn.their_state is h11.IDLE and (self.cycle is None or bool(self.conn.trailing_data[0]))
        if waits and self._head is None:
            self._head = self.loop.call_later(self.limits.head_seconds, self.transport.abort)
        elif not waits and self._head is not None:
            self._head.cancel()
            self._head = None


def with_limits(limits: Limits) -> type[Protocol]:
    """The class that uvicorn makes one of for each connection."""
    made: type[Protocol] = type("LimitedProtocol", (Protocol,), {"limits": limits})
    return made
