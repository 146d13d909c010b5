"""The answer to one request, written through ASGI; every answer says who it is and which table.

A refusal takes its words here: in Korean where the client asks for it, else in English.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from msgspec import json

from madang.messages import language, say
from madang.traffic.refusal import Headers, Refusal

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

JSON = b"application/json"
PART_BYTES = 256 << 10
"""A larger answer is sent in parts, each once the client has taken most of the one before."""
EVENTS = b"text/event-stream; charset=utf-8"

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Reply:
    """One answer, whole or in pieces."""

    def __init__(self, send: Send, request_id: str, version: int, asked: Headers) -> None:
        self._send = send
        self._asked = asked
        self._marks: Headers = [
            (b"x-request-id", request_id.encode()),
            (b"x-madang-table", str(version).encode()),
        ]
        self.marks: Headers = []
        """Further headers of a good answer."""
        self.started = False
        """Whether the head of the answer has been written."""

    async def whole(
        self,
        body: bytes,
        status: int = 200,
        headers: Headers | None = None,
        taken: Callable[[], None] = lambda: None,
    ) -> None:
        """Send a complete JSON answer, a large one in parts; `taken` hears of each that is gone."""
        length = (b"content-length", str(len(body)).encode())
        await self._start(status, JSON, [length, *(self.marks if headers is None else headers)])
        for begin in range(0, len(body) - PART_BYTES, PART_BYTES):
            part = body[begin : begin + PART_BYTES]
            await self._send({"type": "http.response.body", "body": part, "more_body": True})
            taken()
        rest = body[(len(body) - 1) // PART_BYTES * PART_BYTES :] if body else b""
        await self._send({"type": "http.response.body", "body": rest})

    async def piece(self, data: bytes) -> None:
        """Send some events; returns when the client can take more."""
        if not self.started:
            await self._start(200, EVENTS, [(b"cache-control", b"no-cache"), *self.marks])
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """Finish a stream."""
        await self._send({"type": "http.response.body", "body": b""})

    async def refuse(self, refusal: Refusal) -> int:
        """Say no in whatever way is still possible, and return the status that counts."""
        body = self._word(refusal)
        if self.started:
            await self.piece(b"data: " + body + b"\n\n")
            await self.end()
        else:
            await self.whole(body, refusal.status, refusal.headers)
        return refusal.status

    async def refuse_and_close(self, refusal: Refusal) -> None:
        """Say no and announce that the connection ends; `end` must follow."""
        body = self._word(refusal)
        length = (b"content-length", str(len(body)).encode())
        closing = (b"connection", b"close")
        await self._start(refusal.status, JSON, [length, closing, *refusal.headers])
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    def _word(self, refusal: Refusal) -> bytes:
        """Write a refusal in the OpenAI shape and the client's language."""
        wanted = dict(self._asked).get(b"accept-language", b"").decode("latin-1")
        kind = "invalid_request_error" if refusal.status < 500 else "server_error"
        fields: dict[str, object] = {
            "message": explain(refusal, language({"LANG": wanted})),
            "type": _TYPES.get(refusal.status, kind),
            "param": refusal.param,
            "code": refusal.code,
        }
        if refusal.limited:
            fields["limited"] = refusal.limited
        return json.encode({"error": fields})

    async def _start(self, status: int, content_type: bytes, headers: Headers) -> None:
        self.started = True
        marked = [(b"content-type", content_type), *headers, *self._marks]
        await self._send({"type": "http.response.start", "status": status, "headers": marked})


def explain(refusal: Refusal, lang: str) -> str:
    """Say what is refused, what the model waits for, and what to do next."""
    said = say(refusal.message, {"param": refusal.param, **refusal.values}, lang)
    waiting = refusal.waiting
    why = say(waiting.code, waiting.values, lang).text if waiting else ""
    return " ".join(part.strip() for part in (said.text, why, said.hint) if part)
