"""A process that runs out of open files or memory says so, harms nobody else, and recovers."""

from __future__ import annotations

import json
import resource
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from .conftest import Yard
from .test_faults import unwell
from .test_kill import Caller

pytestmark = [pytest.mark.story, pytest.mark.timeout(180)]

FILES, MEMORY = resource.RLIMIT_NOFILE, resource.RLIMIT_AS
CHAT = {"model": "words", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 64}
CALLS = 8
BODIES, BODY_BYTES = 48, (4 << 20) - 64


@pytest.fixture(scope="module")
def served(running: Yard) -> Yard:
    """Two replicas of the fake engine."""
    running.fake("words", words="one two three four five six seven eight", token_ms=2)
    running.apply(kind="service", name="words", model="words", scale=2)
    running.until_phase("service", "words", "ready")
    return running


@contextmanager
def short(pid: int, what: int) -> Iterator[None]:
    """Let a process have no more open files, or memory, than it has now."""
    status = Path(f"/proc/{pid}/status").read_text()
    kilobytes = int(status.partition("VmSize:")[2].split()[0])
    files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    has = files if what == FILES else kilobytes * 1024
    before = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (has, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, what, before)


class Line:
    """One connection that was open before anything ran short.

    Open on this side only is not enough: the kernel greets before a server has taken the
    connection in, and one that has no more open files takes in none. So it is answered once.
    """

    def __init__(self, yard: Yard, part: str) -> None:
        where = urlsplit(yard.told[part])
        assert where.hostname
        self._key = yard.told["api_key"]
        self._connection = HTTPConnection(where.hostname, where.port or 0, timeout=30)
        status, _ = self.ask("GET", {"api": "/api/v1/status", "gateway": "/v1/models"}[part])
        assert status == 200

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        self._connection.request(method, path, body and json.dumps(body), headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read().decode()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


class Heap:
    """Bodies that lie in a server, but for their last byte, on connections made beforehand.

    A limit of memory is not met at once: what has been freed is used again, and a heap that was
    set aside is filled first. So many bodies fit in neither.
    """

    def __init__(self, yard: Yard, part: str, path: str) -> None:
        where = urlsplit(yard.told[part])
        assert where.hostname
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {yard.told['api_key']}\r\nContent-Length: {BODY_BYTES}\r\n\r\n"
        )
        self._said = head.encode() + b'"' + b"x" * (BODY_BYTES - 2)
        address = where.hostname, where.port or 0
        self._open = [socket.create_connection(address, 30) for _ in range(BODIES)]

    def fill(self) -> set[str]:
        """Send them all, then their last bytes; return what they were answered with."""
        with ThreadPoolExecutor(BODIES) as pool:
            list(pool.map(self._send, self._open))
            return set(pool.map(self._end, self._open))

    def _send(self, connection: socket.socket) -> None:
        with suppress(OSError):  # turned away before all of it was sent
            connection.sendall(self._said)

    def _end(self, connection: socket.socket) -> str:
        answer = HTTPResponse(connection)
        try:
            with suppress(OSError):
                connection.sendall(b'"')
            answer.begin()
            body = json.loads(answer.read())
            return f"{answer.status} {body['error']['code']}"
        except (OSError, HTTPException):
            return "closed"  # where not even the request could be taken in
        finally:
            answer.close()

    def __enter__(self) -> Heap:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._open:
            connection.close()


def everything(yard: Yard) -> dict[str, tuple[int, int]]:
    """Return process and restarts of all that runs."""
    status = yard.json("status")
    own = {p["uid"]: (p["pid"], p.get("restarts", 0)) for p in status["processes"]}
    replicas = {r["name"]: (r["status"]["pid"], 0) for r in yard.replicas("words")}
    return own | replicas | {"supervisor": (yard.supervisor, 0)}


def imported(line: Line, yard: Yard, name: str) -> tuple[int, str]:
    """Import a model; return the status it came to, and the code of its error."""
    source = str(yard.home.parent / "words.json")
    status, text = line.ask("POST", "/api/v1/model", {"name": name, "source": source})
    last = json.loads(text.splitlines()[-1])
    error = last.get("error", {})
    return error.get("status", status), error.get("code", "")


def test_control_without_open_files_says_so_and_goes_on_once_it_has_some(served: Yard) -> None:
    before = everything(served)
    pid = before["control"][0]
    with Caller(served) as caller:
        with Line(served, "api") as line, short(pid, FILES):
            assert imported(line, served, "m1") == (503, "control.short")
            assert line.ask("GET", "/api/v1/status")[0] == 200
            assert unwell(served)["doctor.files-out"]["subject"] == "control"
            good = caller.good
            served.until("applications are served", lambda: caller.good > good + 3)
        with Line(served, "api") as line:
            assert imported(line, served, "m1") == (200, "")
        served.until("all is well again", lambda: not unwell(served))
    assert caller.bad == []
    assert everything(served) == before
    log = (served.home / "logs" / "control.log").read_text()
    assert "Traceback" not in log, "one line for a lack, not a page"


def test_control_without_memory_fails_no_call_with_500_and_goes_on_once_it_has_some(
    served: Yard,
) -> None:
    before = everything(served)
    pid = before["control"][0]
    with Caller(served) as caller:
        heap = Heap(served, "api", "/api/v1/key")
        with heap, Line(served, "api") as line, short(pid, MEMORY):
            said = heap.fill()
            assert said <= {"400 api.value", "503 control.short", "503 http.no-memory", "closed"}
            log = (served.home / "logs" / "control.log").read_text()
            named = "control.short: MemoryError; raise the limit" in log
            assert named or "503 control.short" in said, "the limit was met, and named"
            assert "Traceback" not in log, "one line for a lack, not a page"
            assert unwell(served)["doctor.memory-out"]["subject"] == "control"
            for number in range(5):
                status, code = imported(line, served, f"n{number}")
                assert (status, code) in {(200, ""), (503, "control.short")}
                status, _ = line.ask("POST", "/api/v1/key", {"name": f"k{number}"})
                assert status in {200, 503}
            good = caller.good
            served.until("applications are served", lambda: caller.good > good + 3)
        with Line(served, "api") as line:
            assert imported(line, served, "after") == (200, "")
        served.apply(kind="service", name="words", model="words", scale=2)
        served.until("all is well again", lambda: not unwell(served))
    assert caller.bad == []
    assert everything(served) == before


@pytest.mark.parametrize("what", [FILES, MEMORY], ids=["files", "memory"])
def test_a_gateway_that_runs_short_blames_no_replica_and_serves_again_at_once(
    served: Yard, what: int
) -> None:
    before = everything(served)
    pid = before["gateway"][0]
    with ExitStack() as stack, ThreadPoolExecutor(CALLS) as pool:
        lines = [stack.enter_context(Line(served, "gateway")) for _ in range(CALLS)]
        heap = stack.enter_context(Heap(served, "gateway", "/v1/chat/completions"))
        stack.enter_context(short(pid, what))
        if what == MEMORY:
            turned_away = heap.fill()
            short_of = {"503 overloaded", "503 http.no-memory"}
            assert turned_away <= {"400 invalid_request", "closed"} | short_of
            assert turned_away & short_of, "the limit was met"
            found = unwell(served)
            assert found["doctor.memory-out"]["subject"] == "gateway"
            assert found["doctor.part-short"]["values"]["cause"] == "MemoryError"
            log = (served.home / "logs" / "gateway.log").read_text()
            assert "control.short: MemoryError; raise the limit" in log
            assert "Traceback" not in log
        said = set(pool.map(lambda line: line.ask("POST", "/v1/chat/completions", CHAT)[0], lines))
        assert said <= {200, 503}
        if what == FILES:
            assert 503 in said, "a connection or two to an engine may have been left open"
            assert unwell(served)["doctor.files-out"]["subject"] == "gateway"
        assert served.phase("service", "words") == "ready"
    with Line(served, "gateway") as line:
        assert line.ask("POST", "/v1/chat/completions", CHAT)[0] == 200
    served.until("all is well again", lambda: not unwell(served))
    assert everything(served) == before


def is_met(yard: Yard) -> bool:
    """Tell whether memory has run out in the supervisor, or in what it has just started.

    What is started with too little may end before it can say why: the loader does, for one.
    """
    said = (yard.home / "logs" / "supervisor.log").read_text()
    ended = any(each["status"]["restarts"] for each in yard.replicas("words"))
    return ended or "memory has run out" in said


@pytest.mark.parametrize("what", [FILES, MEMORY], ids=["files", "memory"])
def test_a_supervisor_that_runs_short_starts_nothing_and_ends_nothing(
    served: Yard, what: int
) -> None:
    before = everything(served)
    with Caller(served) as caller:
        with short(served.supervisor, what):
            served.apply(kind="service", name="words", model="words", scale=3)
            named = "doctor.files-out" if what == FILES else "doctor.memory-out"
            served.until(
                "doctor names it",
                lambda: unwell(served).get(named, {}).get("subject") == "supervisor",
            )
            if what == MEMORY:
                served.until("the limit is met", lambda: is_met(served))
            good = caller.good
            served.until("applications are served", lambda: caller.good > good + 3)
        served.until(
            "the third one is ready",
            lambda: [r["status"]["phase"] for r in served.replicas("words")] == ["ready"] * 3,
        )
        served.apply(kind="service", name="words", model="words", scale=2)
        served.until("it is gone again", lambda: len(served.replicas("words")) == 2)
    assert caller.bad == []
    assert (
        everything(served).items()
        >= {name: before[name] for name in ("supervisor", "control", "gateway")}.items()
    )
