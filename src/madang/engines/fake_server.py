"""The fake engine: an OpenAI-compatible server that follows a script instead of a model.

Started as `python -I -S fake_server.py JSON`; standard library only, so that it starts fast.
The script is the "model file", a JSON object; every part may be left out:

    {"token_ms": 1, "first_token_ms": 0, "load_ms": 0, "words": "what it says, again and again",
     "prints": ["a line of its log"],
     "fail": {"load": "out of memory", "exit_code": 1, "ignores_stop_signal": true,
              "crash_after_requests": 3, "crash_after_tokens": 50,
              "identity": "other-name", "ignores_max_tokens": true, "ignores_stop": true,
              "hang": true, "no_stream": true, "bad_usage": true, "bad_json": true,
              "keeps_working_after_cancel": true}}
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import takewhile
from typing import Any

if not __package__:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(__file__))))  # noqa: PTH120

from madang.engines.fake_schema import least_value

WORDS = "Madang is the open yard where the village holds its events."
BODY_BYTES_MAX = 16 << 20
OUTPUT_TOKENS_MAX = 100_000
OVERRUN = 4
"""A script that ignores `max_tokens` says this many times as much."""
EMBEDDING_SIZE = 16
SALTS_MAX = 256
"""Caches that are kept, each by its salt; the one least used goes first."""
CRASHED = 70
"""Exit code of an engine whose script says that it crashes."""


class Script:
    """How this engine behaves, and what it has done so far."""

    def __init__(self, settings: dict[str, Any], script: dict[str, Any]) -> None:
        self.prints: list[str] = script.get("prints") or []
        self.fail: dict[str, Any] = script.get("fail") or {}
        self.name: str = self.fail.get("identity") or settings["name"]
        self.words = tokens_of(script.get("words", WORDS) + " ")
        self.token_s = script.get("token_ms", 1) / 1000
        self.first_token_s = script.get("first_token_ms", 0) / 1000
        self.load_s = script.get("load_ms", 0) / 1000
        self.slot_tokens = settings["context_tokens"] // settings["slots"]
        self.slots = threading.Semaphore(settings["slots"])
        self.lock = threading.Lock()
        self.last_prompts: dict[str, list[str]] = {}
        self.counts = dict.fromkeys(
            (
                "requests_processing",
                "requests_deferred",
                "prompt_tokens_total",
                "prompt_tokens_cached_total",
                "tokens_predicted_total",
            ),
            0,
        )
        self.requests = 0

    def count(self, name: str, amount: int) -> int:
        """Change one of the counters and return it."""
        with self.lock:
            self.counts[name] += amount
            return self.counts[name]

    def crash_if(self, name: str, number: int) -> None:
        """End the process at once when the script says so."""
        limit = self.fail.get(name)
        if limit is not None and number > limit:
            self.end(CRASHED)

    def end(self, exit_code: int) -> None:
        """End the process at once."""
        os._exit(exit_code)

    def begin(self, prompt: list[str], salt: str) -> int:
        """Take in a prompt; return how much of it the last one of that salt left in the cache."""
        with self.lock:
            self.requests += 1
            last = self.last_prompts.pop(salt, [])
            self.last_prompts[salt] = prompt
            if len(self.last_prompts) > SALTS_MAX:
                del self.last_prompts[next(iter(self.last_prompts))]
        self.crash_if("crash_after_requests", self.requests)
        pairs = zip(prompt[:-1], last, strict=False)
        cached = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self.count("prompt_tokens_total", len(prompt) - cached)
        self.count("prompt_tokens_cached_total", cached)
        return cached

    def metrics(self) -> str:
        """Write the counters under llama.cpp's names."""
        return "".join(f"llamacpp:{name} {value}\n" for name, value in self.counts.items())


class SimulatedScript(Script):
    """How one simulated engine behaves; its end is no end of this process."""

    def __init__(
        self, settings: dict[str, Any], script: dict[str, Any], on_end: Callable[[int], object]
    ) -> None:
        super().__init__(settings, script)
        self.is_over = False
        self._on_end = on_end

    def end(self, exit_code: int) -> None:
        """End what is simulated; raises ConnectionResetError to whoever has asked it."""
        self._on_end(exit_code)
        raise ConnectionResetError


class Answer:
    """One generation: its tokens as they come, and what it has used."""

    def __init__(self, script: Script, order: dict[str, Any], chat: bool) -> None:
        self.script = script
        self.chat = chat
        self.prompt = tokens_of(prompt_of(order, chat))
        self.limit: int | None = order.get("max_completion_tokens") or order.get("max_tokens")
        stops = order.get("stop") or []
        self.stops: list[str] = [stops] if isinstance(stops, str) else list(stops)
        self.calls = called_function(order) if chat else None
        text = forced_text(order, script) if self.calls is None else forced_call(order, self.calls)
        self.words = script.words if text is None else tokens_of(text)
        self.repeats = text is None
        self.finish = "stop"
        self.cached = self.made = 0

    def tokens(self) -> Iterator[str]:
        """Give one token after another, up to a stop or a limit, unless the script ignores it."""
        fail, said = self.script.fail, ""
        for number in range(self._length()):
            token = self.words[number % len(self.words)]
            said += token
            self.made += 1
            made = self.script.count("tokens_predicted_total", 1)
            self.script.crash_if("crash_after_tokens", made)
            if not fail.get("ignores_stop") and any(stop in said for stop in self.stops):
                self.finish = "stop"
                return
            yield token

    def _length(self) -> int:
        natural = len(self.words)
        if self.limit is None:
            return natural
        if self.script.fail.get("ignores_max_tokens"):
            return min(self.limit * OVERRUN, OUTPUT_TOKENS_MAX)
        if self.repeats or self.limit < natural:
            self.finish = "length"
            return min(self.limit, OUTPUT_TOKENS_MAX)
        return natural

    def usage(self) -> dict[str, Any]:
        """Return what it used, or something wrong if the script says so."""
        asked, made = len(self.prompt), self.made
        if self.script.fail.get("bad_usage"):
            asked, made = 0, made * 7 + 1000
        return {
            "prompt_tokens": asked,
            "completion_tokens": made,
            "total_tokens": asked + made,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }

    def whole(self, text: str) -> dict[str, Any]:
        """Return the answer in one piece."""
        message = {"role": "assistant", **self._said(text, is_first=True)}
        part: dict[str, Any] = {"message": message} if self.chat else {"text": text}
        return self._card("", {**part, "finish_reason": self.ended}) | {"usage": self.usage()}

    @property
    def ended(self) -> str:
        """Why it ended, as an answer says it."""
        return "tool_calls" if self.calls and self.finish == "stop" else self.finish

    def _said(self, text: str, *, is_first: bool) -> dict[str, Any]:
        """Return a piece of text as what it is: words, or what a function is called with."""
        if self.calls is None:
            return {"content": text}
        call: dict[str, Any] = {"index": 0, "function": {"arguments": text}}
        if is_first:
            call |= {"id": f"call-{id(self):x}", "type": "function"}
            call["function"]["name"] = self.calls
        return {"content": None, "tool_calls": [call]}

    def piece(self, text: str, finish: str | None = None) -> dict[str, Any]:
        """Return one event of a stream."""
        is_first = self.made == 1
        delta = self._said(text, is_first=is_first) if finish is None else {}
        if is_first:
            delta["role"] = "assistant"
        part: dict[str, Any] = {"delta": delta} if self.chat else {"text": text}
        return self._card(".chunk", {**part, "finish_reason": finish})

    def bill(self) -> dict[str, Any]:
        """Return the event of a stream that tells the usage."""
        return self._card(".chunk", {}) | {"choices": [], "usage": self.usage()}

    def _card(self, suffix: str, choice: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": f"fake-{id(self):x}",
            "object": f"chat.completion{suffix}" if self.chat else "text_completion",
            "created": int(time.time()),
            "model": self.script.name,
            "choices": [{"index": 0, **choice}],
        }


class Conversation(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    script: Script
    token: str

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Print nothing per request."""

    def do_GET(self) -> None:
        """Answer what can be asked without a body; one that comes nevertheless is passed over."""
        self.rfile.read(min(int(self.headers.get("Content-Length") or 0), BODY_BYTES_MAX))
        if self.path == "/health":
            self._reply({"status": "ok"})
        elif not self._may_ask():
            self._refuse(401, "authentication_error", "Invalid API Key")
        elif self.path == "/v1/models":
            model = {"id": self.script.name, "object": "model", "created": 0, "owned_by": "fake"}
            self._reply({"object": "list", "data": [model]})
        elif self.path == "/metrics":
            self._send(200, "text/plain; version=0.0.4", self.script.metrics().encode())
        else:
            self._refuse(404, "not_found_error", "File Not Found")

    def do_POST(self) -> None:
        """Answer an inference request."""
        size = int(self.headers.get("Content-Length") or 0)
        if size > BODY_BYTES_MAX:
            self.close_connection = True
            return self._refuse(413, "invalid_request_error", "the body is too large")
        body = self.rfile.read(size)
        if not self._may_ask():
            return self._refuse(401, "authentication_error", "Invalid API Key")
        try:
            order = json.loads(body)
            if self.path == "/v1/embeddings":
                return self._embed(order)
            if self.path not in {"/v1/chat/completions", "/v1/completions"}:
                return self._refuse(404, "not_found_error", "File Not Found")
            answer = Answer(self.script, order, "chat" in self.path)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return self._refuse(400, "invalid_request_error", f"{type(error).__name__}: {error}")
        if len(answer.prompt) >= self.script.slot_tokens:
            return self._refuse(400, "exceed_context_size_error", "the context is too small")
        return self._generate(answer, order)

    def _generate(self, answer: Answer, order: dict[str, Any]) -> None:
        """Wait for a slot, then answer, as a stream or at once."""
        with self._counted("requests_deferred"):
            self.script.slots.acquire()
        try:
            with self._counted("requests_processing"):
                answer.cached = self.script.begin(answer.prompt, str(order.get("cache_salt", "")))
                if self.script.fail.get("hang"):
                    self._pause(float("inf"))
                if order.get("stream") and not self.script.fail.get("no_stream"):
                    self._stream(answer, order)
                else:
                    self._reply(answer.whole("".join(self._paced(answer))))
        except ConnectionError:
            self.close_connection = True
        finally:
            self.script.slots.release()

    def _stream(self, answer: Answer, order: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for token in self._paced(answer):
            self._event(json.dumps(answer.piece(token)))
        self._event(json.dumps(answer.piece("", answer.ended)))
        if (order.get("stream_options") or {}).get("include_usage"):
            self._event(json.dumps(answer.bill()))
        self._event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, data: str) -> None:
        line = f"data: {data}\n\n".encode()
        try:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
        except ConnectionError:
            if not self.script.fail.get("keeps_working_after_cancel"):
                raise

    def _paced(self, answer: Answer) -> Iterator[str]:
        self._pause(self.script.first_token_s)
        for token in answer.tokens():
            self._pause(self.script.token_s)
            yield token

    def _pause(self, seconds: float) -> None:
        """Let time pass; raises ConnectionResetError once the client has left."""
        stays = self.script.fail.get("keeps_working_after_cancel")
        deadline = time.monotonic() + seconds
        while (left_s := deadline - time.monotonic()) > 0:
            if stays or self._has_more(min(left_s, 1.0)):
                time.sleep(max(0.0, min(deadline - time.monotonic(), 0.1)))

    def _has_more(self, wait_s: float) -> bool:
        """Whether the client has sent more; raises ConnectionResetError when it has left."""
        if not select.select([self.connection], [], [], wait_s)[0]:
            return False
        if not self.connection.recv(1, socket.MSG_PEEK):
            raise ConnectionResetError
        return True

    def _embed(self, order: dict[str, Any]) -> None:
        given = order["input"]
        texts = [given] if isinstance(given, str) or isinstance(given[0], int) else given
        data = [
            {"object": "embedding", "index": number, "embedding": embedding_of(str(text))}
            for number, text in enumerate(texts)
        ]
        count = sum(len(tokens_of(str(text))) for text in texts)
        usage = {"prompt_tokens": count, "total_tokens": count}
        card = {"object": "list", "model": self.script.name}
        self._reply({**card, "data": data, "usage": usage})

    @contextmanager
    def _counted(self, name: str) -> Iterator[None]:
        self.script.count(name, 1)
        try:
            yield
        finally:
            self.script.count(name, -1)

    def _may_ask(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.token}"

    def _refuse(self, status: int, kind: str, message: str) -> None:
        error = {"code": status, "message": message, "type": kind}
        self._send(status, "application/json", json.dumps({"error": error}).encode())

    def _reply(self, body: dict[str, Any]) -> None:
        self._send(200, "application/json", json.dumps(body).encode())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """One thread per connection; they end with the process."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that leave."""


def tokens_of(text: str) -> list[str]:
    """Cut a text into words with the space behind them: this engine's tokens."""
    return re.findall(r"\S+\s*|\s+", text)


def prompt_of(order: dict[str, Any], chat: bool) -> str:
    """Return all that the request says to the model."""
    if not chat:
        prompt = order["prompt"]
        return prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
    said = [message.get("content") or "" for message in order["messages"]]
    return "\n".join(
        text if isinstance(text, str) else " ".join(part.get("text", "") for part in text)
        for text in said
    )


def forced_text(order: dict[str, Any], script: Script) -> str | None:
    """Return the JSON that the request asks for, or None if it leaves the form open."""
    wanted = order.get("response_format") or {}
    if wanted.get("type") not in {"json_schema", "json_object"}:
        return None
    if script.fail.get("bad_json"):
        return '{"broken": '
    schema = wanted.get("json_schema", {}).get("schema", {"type": "object"})
    return json.dumps(least_value(schema))


def called_function(order: dict[str, Any]) -> str | None:
    """Return the function that the request has called, one way or another; None: it leaves that."""
    choice = order.get("tool_choice")
    if isinstance(choice, dict):
        return str(choice["function"]["name"])
    return str(order["tools"][0]["function"]["name"]) if choice == "required" else None


def forced_call(order: dict[str, Any], name: str) -> str:
    """Return the least that a function of the request may be called with, as JSON."""
    known = {tool["function"]["name"]: tool["function"] for tool in order["tools"]}
    return json.dumps(least_value(known[name].get("parameters") or {"type": "object"}))


def embedding_of(text: str) -> list[float]:
    """Return a vector of length one that depends on the text and nothing else."""
    raw = [zlib.crc32(f"{n}:{text}".encode()) / 2**32 - 0.5 for n in range(EMBEDDING_SIZE)]
    size = sum(x * x for x in raw) ** 0.5
    return [x / size for x in raw]


def say(line: str) -> None:
    """Write a line of the engine's log."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def main() -> None:
    """Load, announce the address, serve until a signal ends the process."""
    settings = json.loads(sys.argv[1])
    with open(settings["script"], "rb") as file:  # noqa: PTH123 - pathlib is slow to load
        script = Script(settings, json.load(file))
    if script.fail.get("ignores_stop_signal"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for line in script.prints:
        say(line)
    time.sleep(script.load_s)
    if cause := script.fail.get("load"):
        say(f"cannot load the model: {cause}")
        sys.exit(script.fail.get("exit_code", 1))
    Conversation.script = script
    Conversation.token = os.environ.pop("MADANG_ENGINE_TOKEN")
    server = Server(("127.0.0.1", 0), Conversation)
    ready = {"url": f"http://127.0.0.1:{server.server_port}", "pid": os.getpid()}
    with suppress(OSError), os.fdopen(int(os.environ["MADANG_READY_FD"]), "w") as file:
        file.write(json.dumps(ready) + "\n")
    server.serve_forever()


if __name__ == "__main__":
    main()
