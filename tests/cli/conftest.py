"""The stand-in, in a thread or under a real supervisor, and commands run against it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from madang.app import plans
from madang.cli import main
from madang.settings import Home

sys.path.append(str(Path(__file__).parent))
from patched import boot_plans  # beside us, where pytest does not look
from standin import KEY, World, servers


class Said(NamedTuple):
    """What a command left behind."""

    status: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MADANG_LANG", "MADANG_URL", "MADANG_KEY", "MADANG_PROJECT", "MADANG_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def free_port() -> int:
    """A port that is free together with the next one."""
    return plans.free_port("127.0.0.1")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command in this process."""

    def run(*arguments: str) -> Said:
        capsys.readouterr()
        status = main(list(arguments))
        return Said(status, *capsys.readouterr())

    return run


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The stand-in's world, with MADANG_URL and MADANG_KEY leading to it."""
    made = World()
    both = servers(made, "127.0.0.1", 0)
    for server in both:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("MADANG_URL", f"http://127.0.0.1:{both[0].server_port}")
    monkeypatch.setenv("MADANG_KEY", KEY)
    yield made
    for server in both:
        server.shutdown()
        server.server_close()


@pytest.fixture
def hello(world: World) -> World:
    """A world with the service hello, ready."""
    world.serve({"name": "hello", "model": "m"})
    for _ in range(4):
        world.advance()
    return world


@pytest.fixture
def bare(home: Home, run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home where nothing runs; `up` starts the stand-in there, and the end stops it."""
    monkeypatch.setenv("MADANG_HOME", str(home.path))
    monkeypatch.setattr(plans, "boot_plans", boot_plans)
    yield home
    assert run("down").status == 0
