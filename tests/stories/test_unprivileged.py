"""Madang as a user who may write nothing but a home of its own: neither packages nor Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import pytest
from tests import living

import madang

from .conftest import DEADLINE_S, Yard, is_alive

pytestmark = [pytest.mark.story, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "requirements" / "core.txt", ROOT / "src" / "madang" / "engines" / "requirements.txt"
NOBODY = 65534
UID = NOBODY if os.getuid() == 0 else os.getuid()
"""Root becomes somebody else; everybody else is one already, and packages are closed to them."""
AS_USER = {"user": UID, "group": UID, "extra_groups": ()} if os.getuid() == 0 else {}
MINOR = f"python{sys.version_info[0]}.{sys.version_info[1]}"


def is_open(folder: Path) -> bool:
    """Tell whether any user may walk to a folder."""
    return all(each.stat().st_mode & 0o001 for each in (folder, *folder.parents))


def laid(source: Path, place: Path) -> None:
    """Put a file where that user can read it: as a link if others may read it, else as a copy."""
    place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    mode = source.stat().st_mode
    if mode & 0o004 and not source.is_symlink():
        with suppress(OSError):  # on another disk
            place.hardlink_to(source)
            return
    shutil.copyfile(source, place)
    place.chmod(0o755 if mode & 0o100 else 0o644)


def laid_out(source: Path, place: Path, *without: str) -> None:
    for folder, names, files in os.walk(source):
        names[:] = [name for name in names if name not in ("__pycache__", *without)]
        for name in files:
            path = Path(folder) / name
            laid(path, place / path.relative_to(source))


def works(python: str) -> bool:
    """Tell whether that user can run an interpreter for which these packages were built."""
    ask = f"import sys, sqlite3, ssl; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    try:
        done = subprocess.run([python, "-I", "-c", ask], cwd="/", capture_output=True, check=False,
                              timeout=DEADLINE_S, **AS_USER)  # fmt: skip
    except OSError:
        return False
    return done.returncode == 0


def interpreter(folder: Path) -> str:
    """Return an interpreter that this user can run: ours, the system's, or a copy of ours."""
    system = shutil.which(MINOR, path="/usr/local/bin:/usr/bin") or sys.executable
    ours = os.path.realpath(sys.executable)
    for known in (ours, system):
        if works(known):
            return known
    base = Path(sys.base_prefix)
    laid(Path(ours), folder / "bin" / MINOR)
    laid_out(base / "lib" / MINOR, folder / "lib" / MINOR, "site-packages", "test")
    for library in (base / "lib").glob("libpython*"):
        laid(library, folder / "lib" / library.name)
    assert works(str(folder / "bin" / MINOR)), "a copy of this interpreter runs where any user is"
    return str(folder / "bin" / MINOR)


def packages(place: Path) -> None:
    """Lay out what `make setup` installs, and Madang itself."""
    locked = {name for lock in LOCKS for name in re.findall(r"(?m)^([\w.-]+)==", lock.read_text())}
    there = {dist.name.lower().replace("_", "-"): dist for dist in metadata.distributions()}
    for name in locked & there.keys():  # some are for other platforms
        for file in there[name].files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                laid(Path(str(file.locate())), place / file)
    laid_out(Path(madang.__file__).parent, place / "madang", "testing")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may walk to."""
    places = (Path(p) for p in (tempfile.gettempdir(), "/tmp", "/var/tmp"))
    folder = Path(tempfile.mkdtemp(prefix="madang-", dir=next(filter(is_open, places))))
    folder.chmod(0o755)
    yield folder
    for each in folders(folder):
        each.chmod(0o755)
    shutil.rmtree(folder)


def folders(top: Path) -> list[Path]:
    below = (path for path in top.rglob("*") if path.is_dir() and not path.is_symlink())
    return [top, *below]


@pytest.fixture
def yard(folder: Path) -> Iterator[Yard]:
    """A home of that user, and an environment that it can read and run, and nothing else."""
    env, own = folder / "env", folder / "own"
    argv = [interpreter(folder / "python"), "-m", "venv", "--without-pip", "--symlinks", str(env)]
    mask = os.umask(0o022)
    try:
        subprocess.run(argv, cwd="/", check=True, timeout=DEADLINE_S)
        packages(env / "lib" / MINOR / "site-packages")
    finally:
        os.umask(mask)
    program = env / "bin" / "madang"
    start = f"#!{env}/bin/python\nimport sys\nfrom madang.cli import main\nsys.exit(main())\n"
    program.write_text(start)
    program.chmod(0o755)
    own.mkdir(mode=0o700)
    os.chown(own, UID, -1)
    for each in folders(env):
        each.chmod(0o555)
    yard = Yard(own / "home", program=program, user=AS_USER, env={"HOME": str(own)})
    yield yard
    yard.run("down")


def told(folder: Path) -> dict[str, tuple[int, int]]:
    """Return every name in a folder, with the size and time of each."""
    seen = ((path, path.lstat()) for path in folder.rglob("*"))
    return {str(path): (status.st_size, status.st_mtime_ns) for path, status in seen}


def owner(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().partition("Uid:")[2].split()[0])


def test_a_user_who_may_write_only_a_home_of_its_own_has_all_of_madang(yard: Yard) -> None:
    env = yard.program.parents[1]
    before = told(env)
    assert yard.up()["answer"]
    status = yard.json("status")
    pids = [process["pid"] for process in status["processes"]]
    pids += [replica["status"]["pid"] for replica in yard.replicas("hello")]
    assert len(pids) >= 3
    assert {owner(pid) for pid in (yard.supervisor, *pids)} == {UID}
    assert UID != 0
    assert yard.run("chat", "hello", "What is Korea?", "--max-tokens", "24").stdout.strip()
    done = yard.run("doctor")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert yard.json("backup", "drill")
    assert set(living.every(yard.home, lambda path: path.lstat().st_uid).values()) == {UID}
    supervisor = yard.supervisor
    assert yard.json("down")["stopped"]
    assert not any(is_alive(pid) for pid in (supervisor, *pids))
    assert yard.up()["answer"], "what was made is there again"
    assert told(env) == before, "nothing was written where the packages lie"
