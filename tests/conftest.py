"""What every test gets: a home of its own, and no network but loopback."""

from __future__ import annotations

import ipaddress
import itertools
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from madang import compiled
from madang.settings import Home
from madang.testing.postgres import PostgresServer, running

QUICK_EXAMPLES = 20
"""Of what properties try by default, 100, what is tried by `make check`."""
_MADE = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")
_PYTHON = ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")
for _name in ("MADANG_HOME", "MADANG_LANG", "MADANG_PROJECT", *_MADE, *_PYTHON):
    os.environ.pop(_name, None)  # what somebody has set here must not decide what a test sees
os.environ.setdefault(compiled.WANTED, "off")
compiled.use()  # on: what was built is tested, by the same tests


hypothesis.settings.register_profile(
    "madang", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)  # a busy machine is no fault of what is tested
hypothesis.settings.register_profile(
    "quick", hypothesis.settings.get_profile("madang"), max_examples=QUICK_EXAMPLES
)
hypothesis.settings.load_profile("madang")

PROPERTY_S = 300


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give properties more time than the rest, on a machine that is busy.

    Where time is up within hypothesis, it takes that for what it looks for, tries it again, and in
    the end tells of an error of its own: an index out of range, or data that is made in two ways.
    """
    for item in items:
        if item.get_closest_marker("hypothesis") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(PROPERTY_S))


class NetworkUsed(Exception):
    """A test has tried to leave the machine. No code of ours catches this."""


def _is_near(family: int, address: Any) -> bool:
    if family not in (socket.AF_INET, socket.AF_INET6):
        return True
    host = str(address[0]).partition("%")[0]
    try:
        return host in ("localhost", "") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse to connect, send or look up anything but this machine; afterwards, say so again."""
    escapes: list[str] = []

    def check(family: int, address: Any) -> None:
        if not _is_near(family, address):
            escapes.append(str(address))
            raise NetworkUsed(f"no network but loopback: {address}")

    class Guarded(socket.socket):
        def connect(self, address: Any) -> None:
            check(self.family, address)
            super().connect(address)

        def connect_ex(self, address: Any) -> int:
            check(self.family, address)
            return super().connect_ex(address)

        def sendto(self, data: Any, *rest: Any) -> int:
            check(self.family, rest[-1])
            return super().sendto(data, *rest)

    look_up = socket.getaddrinfo

    def guarded_look_up(host: Any, *rest: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host or ""
        check(socket.AF_INET, (name,))
        return look_up(host, *rest, **more)

    monkeypatch.setattr(socket, "socket", Guarded)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_look_up)
    yield
    assert not escapes, f"a test has tried to leave the machine: {escapes}"


@pytest.fixture(scope="session")
def _runtimes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders by number: pytest would look through all there are to number the next one."""
    folder = tmp_path_factory.mktemp("xdg")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _own_runtime(_runtimes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the person who runs the tests: neither their home nor their sockets."""
    runtime = next(_runtimes)
    runtime.mkdir(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    for name in ("MADANG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real server; each test that asks for it makes a database of its own."""
    with running() as server:
        yield server


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home that does not exist yet."""
    return Home(tmp_path / "home")
