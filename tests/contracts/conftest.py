"""Engines as real processes, started as a supervisor would start them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from madang.supervisor.protocol import READY_FD, LaunchPlan

DEADLINE_S = 30.0
UNKEPT = httpx.Limits(max_keepalive_connections=0)
"""A connection for each request: llama.cpp closes one after a stream, and does not say so."""


class RunningEngine:
    """One engine process, and a client that holds its key."""

    def __init__(self, plan: LaunchPlan) -> None:
        reader, writer = os.pipe()
        env = {**plan.env, READY_FD: str(writer)}
        self.process = subprocess.Popen(
            plan.argv, env=env, pass_fds=(writer,), stderr=subprocess.PIPE
        )
        os.close(writer)
        with os.fdopen(reader) as ready:
            line = ready.readline()
        self.announced: dict[str, Any] = json.loads(line) if line else {}
        self.client = httpx.Client(
            base_url=self.announced.get("url", "http://127.0.0.1"),
            headers={"Authorization": f"Bearer {plan.env['MADANG_ENGINE_TOKEN']}"},
            timeout=DEADLINE_S,
            trust_env=False,
            limits=UNKEPT,
        )

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(path, json={"model": "any", **body})

    def chat(self, **body: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": "Say hello to the village."}]
        answer = self.post("/v1/chat/completions", **{"messages": messages, **body})
        assert answer.status_code == 200, answer.text
        said: dict[str, Any] = answer.json()
        return said

    def stream(self, **body: Any) -> list[dict[str, Any]]:
        """Return every event but the last, which must be the end."""
        messages = [{"role": "user", "content": "Say hello to the village."}]
        order = {"model": "any", "messages": messages, "stream": True, **body}
        with self.client.stream("POST", "/v1/chat/completions", json=order) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
        assert lines.pop() == "[DONE]"
        return [json.loads(line) for line in lines]

    def last_words(self) -> tuple[int, str]:
        """Wait for its end; return the exit code and the last line it printed."""
        _, printed = self.process.communicate(timeout=DEADLINE_S)
        lines = printed.decode().strip().splitlines()
        return self.process.returncode, lines[-1] if lines else ""

    def close(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def run_engine() -> Iterator[Callable[[LaunchPlan], RunningEngine]]:
    """Start an engine; it ends with the module."""
    running: list[RunningEngine] = []

    def run(plan: LaunchPlan) -> RunningEngine:
        running.append(RunningEngine(plan))
        return running[-1]

    yield run
    for engine in running:
        engine.close()


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """Wait until something holds."""

    def wait(holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            with suppress(httpx.TransportError):
                if holds():
                    return
            assert time.monotonic() < deadline

    return wait
