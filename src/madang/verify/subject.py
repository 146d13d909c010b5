"""The engine under examination, and how to speak with it: plain HTTP, one request at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

from madang.errors import is_our_lack

ANSWER_S = 60.0
"""How long an engine may take over one read."""
ANSWER_BYTES_MAX = 4 << 20
LINE_BYTES_MAX = 1 << 20


class Failed(Exception):
    """A check went wrong; the message says what was expected and what was seen."""


class Gone(Exception):
    """The engine can't be reached: that is no judgement on what it serves."""


class Short(Gone):
    """We have no descriptor or memory left to ask with: that says nothing about the engine."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One engine that has announced itself."""

    url: str
    uid: str
    """The name under which it must know its model."""
    token: str
    """The key it must ask for."""
    metrics: Callable[[str], Mapping[str, float]]
    """Reads its metrics into the common names."""
    answer_s: float = ANSWER_S
    """How long it may take over one read."""

    def get(self, path: str, token: str | None = None) -> tuple[int, bytes]:
        """Return status and body."""
        with self._asked("GET", path, None, token) as answer:
            return answer.status, answer.read(ANSWER_BYTES_MAX)

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """Return the JSON object it answers; anything but a 200 is a failure."""
        with self._asked("POST", path, {"model": self.uid, **body}) as answer:
            return _parsed(answer.status, answer.read(ANSWER_BYTES_MAX))

    @contextmanager
    def stream(self, path: str, **body: Any) -> Iterator[Iterator[dict[str, Any]]]:
        """Give the events of a streamed answer; leaving the block hangs up."""
        with self._asked("POST", path, {"model": self.uid, "stream": True, **body}) as answer:
            if answer.status != 200:
                _parsed(answer.status, answer.read(ANSWER_BYTES_MAX))
            yield _events(answer)

    @contextmanager
    def _asked(
        self, method: str, path: str, body: dict[str, Any] | None, token: str | None = None
    ) -> Iterator[HTTPResponse]:
        parts = urlsplit(self.url)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=self.answer_s)
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"}
        try:
            sent = None if body is None else json.dumps(body).encode()
            if sent is not None:
                headers["Content-Type"] = "application/json"
            connection.request(method, path, sent, headers)
            yield connection.getresponse()
        except TimeoutError as error:
            raise Failed(f"no answer within {self.answer_s:g} s") from error
        except (OSError, HTTPException) as error:
            raise (Short if is_our_lack(error) else Gone)(str(error)) from error
        finally:
            connection.close()


def _parsed(status: int, body: bytes) -> dict[str, Any]:
    if status != 200:
        raise Failed(f"expected HTTP 200, got {status}: {body[:200].decode(errors='replace')}")
    try:
        answer = json.loads(body)
    except ValueError as error:
        raise Failed(f"the answer is not JSON: {body[:200].decode(errors='replace')}") from error
    if not isinstance(answer, dict):
        raise Failed("the answer is not a JSON object")
    return answer


def _events(answer: HTTPResponse) -> Iterator[dict[str, Any]]:
    """Read server-sent events until [DONE]; an end without it is a failure."""
    while line := answer.readline(LINE_BYTES_MAX):
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        yield _parsed(200, data)
    raise Failed("the stream ended without [DONE]")
