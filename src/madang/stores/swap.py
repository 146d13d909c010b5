"""A home changed for another one, whole: killed at any moment it is the old one or the new one.

The new home is made ready in `restore-ID.part` inside the old one. Renaming that to `.ready` is the
moment that decides. From then on `finish` goes forward, as often as it is called: the old files go
into `replaced-ID` (`.ready`), then the new ones take their places (`.moved`). No step needs more
than a rename inside the home, so a home may be a mount point.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from madang.settings import Home

STAYS = frozenset({
    "run", "logs", "supervisor", "backups", "control.lock", "supervisor.lock", "up.lock",
    "database.url",
})  # fmt: skip
"""What belongs to the place and not to the state: it stays unless the next home brings its own."""
_STAGE, _ASIDE = "restore-", "replaced-"
PART, READY, MOVED = ".part", ".ready", ".moved"
BEFORE = "before"
"""What a staged home has of the one before: the copy of a state that was in a database."""


def entries(home: Home) -> list[Path]:
    """Return what makes this home the one it is; empty where nothing has lived yet."""
    if not home.path.is_dir():
        return []
    return sorted(
        path
        for path in home.path.iterdir()
        if path.name not in STAYS and not path.name.startswith((_STAGE, _ASIDE))
    )


def stage(home: Home, ident: str) -> Path:
    """Return a new folder in which the next home is made ready; leftovers of others go."""
    for leftover in home.path.glob(f"{_STAGE}*{PART}"):
        shutil.rmtree(leftover)
    folder = home.path / f"{_STAGE}{ident}{PART}"
    folder.mkdir(mode=0o700)
    return folder


def decide(folder: Path) -> None:
    """Make the staged home the one that counts. What is in it must be complete."""
    for inside, _, _ in os.walk(folder):
        sync(Path(inside))
    folder.rename(folder.with_suffix(READY))
    sync(folder.parent)


def finish(home: Home) -> Path | None:
    """Carry out what was decided, if anything was; return where the old files lie now.

    Safe to repeat. Whoever opens or starts a home calls this first, while no other can.
    """
    for ready in home.path.glob(f"{_STAGE}*{READY}"):
        _move_away(home, ready, _aside(home, ready))
        moved = ready.with_suffix(MOVED)
        ready.rename(moved)
        sync(home.path)
    for moved in home.path.glob(f"{_STAGE}*{MOVED}"):
        for path in sorted(moved.iterdir()):
            path.rename(home.path / path.name)
        sync(home.path)
        moved.rmdir()
        sync(home.path)
        aside = _aside(home, moved)
        return aside if aside.exists() else None
    return None


def _aside(home: Home, staged: Path) -> Path:
    return home.path / f"{_ASIDE}{staged.stem.removeprefix(_STAGE)}"


def _move_away(home: Home, ready: Path, aside: Path) -> None:
    if (before := ready / BEFORE).exists():
        before.rename(aside)
    stays = (home.path / name for name in STAYS if (ready / name).exists())
    if old := [*entries(home), *(path for path in stays if path.exists())]:
        aside.mkdir(mode=0o700, exist_ok=True)
        for path in old:
            path.rename(aside / path.name)
        sync(aside)


def sync(folder: Path) -> None:
    """Bring a folder's names to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
