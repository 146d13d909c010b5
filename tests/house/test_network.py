"""No test leaves the machine: whoever tries fails, even if the error was swallowed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

TESTS = """
import asyncio, contextlib, socket

def test_near():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
    near, far = socket.socketpair()
    near.close(), far.close()

def test_far():
    with socket.socket() as one:
        one.connect(("192.0.2.1", 80))

def test_name():
    socket.getaddrinfo("example.org", 80)

def test_datagram():
    with socket.socket(type=socket.SOCK_DGRAM) as one:
        one.sendto(b"x", ("192.0.2.1", 53))

def test_swallowed():
    with contextlib.suppress(Exception):
        asyncio.run(asyncio.open_connection("192.0.2.1", 80))
"""


def test_only_loopback_can_be_reached(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parents[1] / "conftest.py", tmp_path)
    (tmp_path / "test_sample.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", str(tmp_path)]
    environ = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # it is conftest that guards
    done = subprocess.run(
        command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    told = re.findall(r"^(PASSED|FAILED|ERROR) \S+::(\w+)", done.stdout, re.MULTILINE)
    caught = {name for kind, name in told if kind != "PASSED"}
    assert caught == {"test_far", "test_name", "test_datagram", "test_swallowed"}, done.stdout
    assert ("PASSED", "test_near") in told
