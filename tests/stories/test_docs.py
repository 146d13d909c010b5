"""The quick start is what happens: its commands are typed into a shell, in both languages."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.certificates import Files

from madang.cli import COMMANDS
from madang.testing.postgres import PASSWORD, PostgresServer

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
QUICKSTARTS = ("docs/quickstart.md", "docs/ko/quickstart.md")
OPERATIONS = ("docs/operations.md", "docs/ko/operations.md")
GUIDES = (
    "docs/guides/scarce-accelerators.md", "docs/guides/serving.md", "docs/guides/sharing.md",
    "docs/guides/training.md",
)  # fmt: skip
GUIDE_PAIRS = tuple((guide, guide.replace("docs/", "docs/ko/", 1)) for guide in GUIDES)
"""Typed in English only; what is typed is the same in Korean."""
LONG = "docs/guides/sharing.md"
"""One walk that takes a few minutes on a slow machine: there are turns and minutes to wait for."""
PAGES_TYPED = (
    *QUICKSTARTS, *OPERATIONS, *(guide for guide in GUIDES if guide != LONG),
    pytest.param(LONG, marks=pytest.mark.timeout(500)),
)  # fmt: skip
APART = frozenset({"postgresql", "upgrade", "tls"})
"""Marks of blocks that are typed somewhere else than the rest of their page."""
PAGES = (
    "README.md", "README.ko.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md",
    "docs/api.md", "docs/hardware.md", *(korean for _, korean in GUIDE_PAIRS),
)  # fmt: skip
pytestmark = [pytest.mark.story, pytest.mark.timeout(180)]

FENCE = re.compile(r"^```(\w*)(?: ([\w-]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
REST = "…"
"""In a line: anything. As a line of its own: any lines."""
LOOKS = (
    "madang get",
    "madang status",
    "madang explain",
    "madang events",
    "madang logs",
    "madang watch",
    "madang usage",
    "curl",
    "madang audit",
)
"""What may be asked again while the world still moves."""
LOOKS_S = 90.0
DONE_S = 90.0
"""How long one command may take: a small model may talk until its context is full."""
MARK = "\x1e"


@dataclass(frozen=True)
class Step:
    """One command or Python block, and what the page says that it prints."""

    command: str
    printed: str = ""
    language: str = "console"
    is_checked: bool = True

    def fits(self, screen: str) -> bool:
        """Tell whether what was printed is what the page says."""
        matched = re.fullmatch(_pattern(self.printed), screen and screen + "\n")
        return not self.is_checked or matched is not None


def _pattern(printed: str) -> str:
    """Return what matches these lines, each REST standing for whatever is there."""
    lines = printed.strip("\n").splitlines()
    return "".join(
        r"(?:.*\n)*" if line.strip() == REST else ".*".join(map(re.escape, line.split(REST))) + "\n"
        for line in lines
    )


def steps(page: str, apart: str = "") -> list[Step]:
    """Read the commands and Python blocks of a page, in order; or those with that mark only."""
    found: list[Step] = []
    for language, mark, body in FENCE.findall((ROOT / page).read_text(encoding="utf-8")):
        if apart != (mark if mark in APART else ""):
            continue
        if language == "console":
            found += _commands(body, mark != "no-check")
        elif language == "python":
            found.append(Step(body, language="python"))
        elif language == "text" and found and found[-1].language == "python":
            found[-1] = Step(found[-1].command, body, "python")
    return found


def _commands(body: str, is_checked: bool) -> Iterator[Step]:
    """Split a console block: `$ ` begins a command, a backslash continues it."""
    joined = body.replace("\\\n", "\\\0")
    for part in re.split(r"^\$ ", joined, flags=re.MULTILINE)[1:]:
        command, _, printed = part.partition("\n")
        yield Step(command.replace("\0", "\n"), printed, is_checked=is_checked)


class Shell:
    """A shell on a terminal of its own: commands print what they print to a person."""

    def __init__(self, environ: dict[str, str], folder: Path) -> None:
        self._screen, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"], cwd=folder, env=environ, text=True,
            stdin=subprocess.PIPE, stdout=terminal, stderr=terminal, start_new_session=True,
        )  # fmt: skip
        os.close(terminal)

    def type(self, command: str) -> tuple[int, str]:
        """Type one command; return its exit code and what stands on the screen."""
        assert self._process.stdin
        told = "was=$?; printf '\\036%s\\036' $was; (exit $was)"
        self._process.stdin.write(f"{{ {command}\n}} </dev/null\n{told}\n")
        self._process.stdin.flush()
        seen, deadline = b"", time.monotonic() + DONE_S
        while seen.count(MARK.encode()) < 2:
            assert select.select([self._screen], [], [], deadline - time.monotonic())[0], (
                f"{command}: not done within {DONE_S} s: {seen.decode(errors='replace')}"
            )
            seen += os.read(self._screen, 4096)
        screen, status, _ = seen.decode().split(MARK)
        return int(status), _as_seen(screen)

    def close(self) -> None:
        """End the shell and what still runs in it; Madang itself is in sessions of its own."""
        assert self._process.stdin
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdin.close()
        os.close(self._screen)


def _as_seen(written: str) -> str:
    """Return the lines that a terminal is left with."""
    lines = written.replace("\r\n", "\n").split("\n")
    plain = [re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line.rpartition("\r")[2]) for line in lines]
    return "\n".join(line.rstrip() for line in plain).strip("\n")


@dataclass
class Reader:
    """Somebody who types what the page says, at a machine where ports may be taken."""

    shell: Shell
    home: Path
    folder: Path
    names: tuple[tuple[str, str], ...] = ()
    """What is called otherwise here than on the page."""
    seen: str = ""
    """What the last command has left on the screen."""

    def follow(self, step: Step) -> int:
        """Do one step and compare; return its exit code."""
        deadline = time.monotonic() + LOOKS_S
        while True:
            status, screen = self.shell.type(self._typed(step))
            if step.fits(self._as_written(screen)):
                self.seen = screen
                return status
            if not step.command.startswith(LOOKS) or time.monotonic() > deadline:
                raise AssertionError(
                    f"$ {step.command}\n--- the page\n{step.printed}--- the screen\n{screen}\n"
                )
            time.sleep(0.2)

    def _typed(self, step: Step) -> str:
        if step.language == "python":
            file = self.folder / "block.py"
            file.write_text(self._here(step.command), encoding="utf-8")
            return f"python {file}"
        # What `make up` would install is what runs this test; it is not looked at again.
        return re.sub(r"^make ", "make -o .venv/.ok ", self._here(step.command))

    def _called(self) -> list[tuple[str, str]]:
        """Return names and ports of the page, and what they are here: `up` chooses ports."""
        with suppress(OSError):
            port = int(re.findall(r":(\d+)\"", (self.home / "listen.json").read_text())[0])
            return [*self.names, (":7070", f":{port}"), (":7071", f":{port + 1}")]
        return list(self.names)

    def _here(self, command: str) -> str:
        for page, real in self._called():
            command = command.replace(page, real)
        return command

    def _as_written(self, screen: str) -> str:
        for page, real in self._called():
            screen = screen.replace(real, page)
        return screen


def language_of(page: str) -> str:
    return "ko" if "/ko/" in page else "en"


@contextmanager
def reading(language: str, folder: Path, at: Path = ROOT, **more: str) -> Iterator[Reader]:
    """Give a reader with a home of their own, who stands in a folder; afterwards all is down."""
    home = folder / ".local/state/madang"
    kept = {
        name: v for name, v in os.environ.items() if not name.startswith(("MADANG_", "OPENAI_"))
    }
    environ = {
        **kept, "PATH": f"{BIN}:{os.environ['PATH']}", "MADANG_HOME": str(home),
        "MADANG_LANG": language, "TERM": "xterm", "HOME": str(folder), **more,
    }  # fmt: skip
    reader = Reader(Shell(environ, at), home, folder)
    try:
        yield reader
    finally:
        subprocess.run([BIN / "madang", "down"], env=environ, check=True, capture_output=True)
        reader.shell.close()


def follow(reader: Reader, todo: list[Step]) -> None:
    """Type one command after the other, and find on the screen what the page says."""
    assert len(todo) > 3
    for step, after in zip(todo, [*todo[1:], Step("")], strict=True):
        status = reader.follow(step)
        may_fail = after.command == "echo $?" or "timeout " in step.command
        assert status == 0 or may_fail, f"$ {step.command}: exit code {status}\n{reader.seen}"


@pytest.mark.parametrize("page", PAGES_TYPED)
def test_a_guide_is_what_happens(page: str, tmp_path: Path) -> None:
    with reading(language_of(page), tmp_path) as reader:
        follow(reader, steps(page))
        assert not (reader.home / "run/supervisor.sock").exists(), "it ends with everything down"


@pytest.mark.parametrize("page", OPERATIONS)
def test_state_comes_into_postgresql_as_the_guide_says(page: str, tmp_path: Path) -> None:
    server = PostgresServer(user="postgres")
    try:
        server.start(fsync="on")
        programs = f"{BIN}:{server.programs}:{os.environ['PATH']}"
        known = {"PGHOST": str(server.folder), "PGUSER": "postgres", "PGPASSWORD": PASSWORD}
        with reading(language_of(page), tmp_path, PATH=programs, **known) as reader:
            secret, folder = "s3cret", quote(str(server.folder), safe="")
            reader.names = (
                ("createuser", f"printf '{secret}\\n{secret}\\n' | createuser"),
                ("PASSWORD@db.example", f"{secret}@{folder}"),
                ("db.example", str(server.folder)),
            )
            follow(reader, steps(page, "postgresql"))
    finally:
        server.remove()


@pytest.mark.parametrize("page", OPERATIONS)
def test_an_upgrade_is_what_the_guide_says(page: str, tmp_path: Path) -> None:
    """In a clone of its own; what `make up` would install is what runs this test."""
    for source, clone in ((ROOT, tmp_path / "there"), (tmp_path / "there", tmp_path / "here")):
        subprocess.run(["git", "clone", "-q", source, clone], check=True)
        subprocess.run(["git", "-C", clone, "checkout", "-q", "-B", "main"], check=True)
    (tmp_path / "here/.venv").symlink_to(ROOT / ".venv")
    with reading(language_of(page), tmp_path, tmp_path / "here") as reader:
        assert reader.shell.type("madang up --port 0")[0] == 0
        follow(reader, steps(page, "upgrade"))
        assert (reader.home / "run/supervisor.sock").exists(), "it ends with everything up"


@pytest.mark.parametrize("page", OPERATIONS)
def test_a_gateway_speaks_tls_as_the_guide_says(page: str, tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.put("ec", days=90)
    with reading(language_of(page), tmp_path) as reader:
        reader.names = (("/etc/madang/gateway", str(files.cert.with_suffix(""))),)
        follow(reader, steps(page, "tls"))


@pytest.mark.parametrize("page", OPERATIONS)
def test_no_command_of_an_operators_guide_goes_untyped(page: str) -> None:
    """A fence that is not typed holds none; a line of text may only name commands."""
    fences = FENCE.findall((ROOT / page).read_text(encoding="utf-8"))
    assert {(language, mark) for language, mark, _ in fences} <= {
        ("console", ""), *(("console", mark) for mark in APART)
    }  # fmt: skip


def test_both_languages_type_the_same() -> None:
    for english, korean in (QUICKSTARTS, OPERATIONS, *GUIDE_PAIRS):
        assert steps(korean)
        for apart in ("", *APART):
            both = ([step.command for step in steps(page, apart)] for page in (english, korean))
            assert next(both) == next(both)


@pytest.mark.parametrize("pages", [OPERATIONS, *GUIDE_PAIRS])
def test_both_languages_have_the_same_parts(pages: tuple[str, str]) -> None:
    """Headings, rows of tables and codes: what is added to one page is missed in the other."""
    both = [(ROOT / page).read_text(encoding="utf-8") for page in pages]
    for part in (r"^#+ ", r"^\|"):
        english, korean = (len(re.findall(part, text, re.MULTILINE)) for text in both)
        assert korean == english, part
    codes = [set(re.findall(r"`([a-z]+\.[a-z-]+|MADANG_[A-Z_]+)", text)) for text in both]
    assert codes[0] ^ codes[1] == set()


def named(page: str) -> list[list[str]]:
    """Return every `make …` and `madang …` of a page, as words."""
    text = (ROOT / page).read_text(encoding="utf-8")
    code = [body for _, _, body in FENCE.findall(text)] + INLINE.findall(FENCE.sub("", text))
    found = []
    for line in "\n".join(code).replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\|\||[|;()]", line.partition("  #")[0]):
            words = part.removeprefix("$ ").split()
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                del words[0]
            program = (words[0] if words else "").removeprefix(".venv/bin/")
            if len(words) > 1 and program in {"make", "madang"}:
                found.append([program, *words[1:]])
    return found


@cache
def help_of(*command: str) -> str:
    environ = {**os.environ, "COLUMNS": "200", "MADANG_LANG": "en"}
    done = subprocess.run(
        [BIN / "madang", *command, "--help"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout if done.returncode == 0 else ""


FAMILIES = frozenset({"model", "key", "audit", "twin", "grant", "round"})
"""Commands that have commands of their own."""


def is_there(words: list[str]) -> bool:
    """Tell whether a make target or a command with these options exists."""
    program, *rest = words
    rest = rest[: rest.index("--")] if "--" in rest else rest  # what follows is not ours
    plain = [word for word in rest if re.fullmatch(r"[a-z][a-z-]*", word)]
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        targets += [f"bench-{path.stem.replace('_', '-')}" for path in ROOT.glob("bench/*.py")]
        return set(plain) <= set(targets)
    command = plain[: 2 if plain[:1] and plain[0] in FAMILIES else 1]
    if rest[0].startswith("-"):
        command = []
    elif not command or command[0] not in COMMANDS:
        return False
    options = [word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)]
    told = help_of(*command)
    return bool(told) and all(re.search(rf"(?<![\w-]){o}(?![\w-])", told) for o in options)


@pytest.mark.parametrize("page", [*PAGES, *PAGES_TYPED])
def test_every_command_that_a_page_names_exists(page: str) -> None:
    assert [" ".join(words) for words in named(page) if not is_there(words)] == []


def test_a_command_that_does_not_exist_is_noticed() -> None:
    for wrong in (
        "make upp",
        "madang upp",
        "madang up --prot",
        "madang model ad",
        "madang apply -q",
    ):
        assert not is_there(wrong.split()), wrong
    for right in ("make bench-control", "madang key create NAME --expires 30d", "madang --help"):
        assert is_there(right.split()), right


def test_an_output_that_differs_is_noticed() -> None:
    step = Step("x", "a …\n…\nend\n")
    assert step.fits("a 1\nb\nc\nend")
    assert step.fits("a 1\nend")
    assert not step.fits("a 1\nb")
    assert not step.fits("b 1\nend")
    assert Step("x").fits("")
    assert not Step("x").fits("said")
    assert _as_seen("1 %\r\x1b[K100 %\r\nx \r\n") == "100 %\nx"
