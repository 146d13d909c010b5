"""A real supervisor in a home of its own, and a client that speaks its protocol byte by byte."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import madang.supervisor

PROGRAM = Path(madang.supervisor.__file__).with_name("__main__.py")
DEADLINE_S = 20.0
ENV = {"PATH": os.environ["PATH"]}


class Client:
    """One connection."""

    def __init__(self, home: Path) -> None:
        folder = os.open(home / "run", os.O_RDONLY)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(DEADLINE_S)
        try:
            self.socket.connect(f"/proc/self/fd/{folder}/supervisor.sock")
        except OSError:
            self.socket.close()
            raise
        finally:
            os.close(folder)
        self.lines = self.socket.makefile("rb")

    def send(self, line: bytes) -> None:
        self.socket.sendall(line)

    def answer(self) -> dict[str, Any]:
        line = self.lines.readline()
        assert line.endswith(b"\n"), "the connection was closed"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, verb: str, term: int = 1, **arguments: Any) -> dict[str, Any]:
        order = {"v": 1, "id": 5, "verb": verb, "term": term, **arguments}
        self.send(json.dumps(order).encode() + b"\n")
        return self.answer()

    def close(self) -> None:
        self.lines.close()
        self.socket.close()


class Node:
    """One supervisor: started, asked, killed, started again."""

    PROGRAM = PROGRAM

    def __init__(self, home: Path) -> None:
        self.home = home
        self.program: tuple[str, ...] = (str(PROGRAM),)
        self.process: subprocess.Popen[bytes] | None = None
        self._clients: list[Client] = []

    def popen(self, *options: str, **more: Any) -> tuple[subprocess.Popen[bytes], int]:
        """Start the program; return it and the reading end of its ready pipe."""
        reader, writer = os.pipe()
        pass_fds = (writer, *more.pop("pass_fds", ()))
        argv = [sys.executable, "-I", "-S", *self.program, str(self.home)]
        argv += ["--ready-fd", str(writer), *options]
        process = subprocess.Popen(argv, pass_fds=pass_fds, stderr=subprocess.DEVNULL, **more)
        os.close(writer)
        return process, reader

    def up(self, *options: str, **more: Any) -> dict[str, Any]:
        """Start it and return what it said on its ready pipe."""
        self.process, reader = self.popen(*options, **more)
        with os.fdopen(reader) as ready:
            said: dict[str, Any] = json.loads(ready.readline())
        return said

    def client(self) -> Client:
        self._clients.append(Client(self.home))
        return self._clients[-1]

    def ask(self, verb: str, term: int = 1, **arguments: Any) -> dict[str, Any]:
        """Ask on a connection of its own; return the answer's `ok`."""
        client = self.client()
        answer = client.ask(verb, term, **arguments)
        client.close()
        return answer.get("ok", answer)

    def start(self, uid: str, *argv: str, epoch: int = 1, **more: Any) -> dict[str, Any]:
        plan = {"uid": uid, "epoch": epoch, "argv": argv, "env": ENV, **more}
        return self.ask("start", plan=plan)

    def gang(self, uid: str, *argv: str, ranks: int = 2, **more: Any) -> dict[str, Any]:
        """Start a member of a gang, whose ranks know their RANK."""
        each = [{"rank": number, "env": {"RANK": str(number)}} for number in range(ranks)]
        return self.start(uid, *argv, ranks=each, **more)

    def until_ranks(
        self, uid: str, holds: Callable[[list[dict[str, Any]]], Any]
    ) -> list[dict[str, Any]]:
        """Observe until it holds of the ranks of that uid; return them."""
        found = self.until(uid, lambda found: found and holds(found[-1]["ranks"]))
        return list(found["ranks"])

    def pids(self, uid: str) -> list[int]:
        """Wait until every rank of that uid runs; return their processes."""
        ranks = self.until_ranks(uid, lambda ranks: all("pid" in rank for rank in ranks))
        return [rank["pid"] for rank in ranks]

    def observe(self, **arguments: Any) -> dict[str, Any]:
        return self.ask("observe", **{"after": 0, "wait_s": 0, **arguments})

    def find(self, uid: str) -> list[dict[str, Any]]:
        return [process for process in self.observe()["processes"] if process["uid"] == uid]

    def until(self, uid: str, holds: Callable[[list[dict[str, Any]]], Any]) -> dict[str, Any]:
        """Observe until it holds of the processes of that uid; return the newest of them."""
        seen, deadline = self.observe(), time.monotonic() + DEADLINE_S
        while not holds(found := [p for p in seen["processes"] if p["uid"] == uid]):
            assert time.monotonic() < deadline, found
            seen = self.observe(after=seen["seq"], wait_s=1)
        return found[-1] if found else {}

    def printed(self, uid: str, count: int) -> list[str]:
        """Wait for that many lines and return them."""
        deadline = time.monotonic() + DEADLINE_S
        while len(lines := self.ask("tail", uid=uid, lines=count)["lines"]) < count:
            assert time.monotonic() < deadline, lines
        return list(lines)

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def down(self) -> int:
        assert self.process
        self.process.terminate()
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        for client in self._clients:
            client.close()
        if self.process and self.process.poll() is None:
            self.down()


def await_end(pid: int) -> None:
    """Wait until that process has ended; a zombie that nobody reaps counts as ended."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([watched], [], [], DEADLINE_S)[0], f"{pid} still runs"
    finally:
        os.close(watched)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def ended() -> Callable[[int], None]:
    return await_end


@pytest.fixture
def alive() -> Callable[[int], bool]:
    return is_alive


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A supervisor that is not up yet."""
    node = Node(tmp_path / "home")
    yield node
    node.close()


@pytest.fixture
def running(node: Node) -> Node:
    """A supervisor that is up."""
    assert "ready" in node.up()
    return node
