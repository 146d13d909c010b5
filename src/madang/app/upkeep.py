"""What commands do to a home by themselves, where no control runs: back up, restore, look."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madang import settings
from madang.app.plugs import chosen_store
from madang.errors import Corrupt, MadangError, Unavailable
from madang.errors import refuse_newer as refuse_newer_form
from madang.settings import Home

if TYPE_CHECKING:
    from madang.control.backups import Backups
    from madang.planning.snapshot import Snapshot
    from madang.ports import Health


@contextlib.asynccontextmanager
async def at_rest(home: Home) -> AsyncIterator[Backups]:
    """Open a home that no control works on, for backups only; nobody else can start on it."""
    from madang.clocks import SystemClock
    from madang.control.backups import Backups
    from madang.control.world import World
    from madang.stores.backup import pieces
    from madang.stores.target import InHome

    with InHome(home).held():
        finish_restore(home)
    world = World(chosen_store(home), {}, SystemClock())
    await world.open()
    try:
        yield Backups(world, home, partial(pieces, world.store, home))
    finally:
        await world.store.close()


def back_up(home: Home, path: Path) -> None:
    """Write a backup of a home that no control works on."""
    from madang.resources.rights import OWNER

    async def take() -> None:
        async with at_rest(home) as backups:
            with keeping(path) as write:
                async for piece in backups.take(OWNER):
                    write(piece)

    asyncio.run(take())


def note_backup(home: Home, outcome: Mapping[str, Any]) -> None:
    """Write down what became of a backup, in a home that no control works on."""
    from madang.control.backups import Outcome
    from madang.resources.rights import OWNER

    async def note() -> None:
        async with at_rest(home) as backups:
            await backups.note(OWNER, Outcome.model_validate(outcome))

    asyncio.run(note())


def keeping(path: Path) -> contextlib.AbstractContextManager[Callable[[bytes], None]]:
    """Take a backup piece by piece into a new file; see `stores.archive.keeping`."""
    from madang.stores import archive

    return archive.keeping(path)


def backup_said(path: Path) -> dict[str, Any]:
    """Return what a backup says of itself, with the SHA-256 and the size of its file."""
    from madang.stores import archive

    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    listing = archive.read(path)
    members = [asdict(member) for member in listing.members]
    size = path.stat().st_size
    return {**listing.about, "members": members, "sha256": digest, "file_bytes": size}


def check_backup(path: Path) -> None:
    """Check a backup to its last byte; raises where it can't be restored."""
    from madang.stores.restore import checked

    checked(path)


def restore(home: Home, path: Path, *, replace: bool) -> dict[str, Any]:
    """Make a home of a backup; return what it says, where the old one lies, and what is missing.

    Its state goes into the database that MADANG_DATABASE_URL gives, else the one that it is in.
    """
    from madang.registry.blobs import FileBlobs
    from madang.resources.rights import OWNER
    from madang.stores.restore import restore as put_back

    url = settings.given_database_url() or settings.database_url(home)
    done = put_back(home, path, OWNER, replace=replace, url=url)
    blobs, missing = FileBlobs(home.blobs), []
    for each in done.listing.about["model_files"]:
        try:
            blobs.path(each["digest"])
        except (Unavailable, Corrupt):
            missing.append(each)
    aside = str(done.aside) if done.aside else ""
    where = {"home": str(home.path), "aside": aside, "database": done.database}
    return {**done.listing.about, **where, "missing": missing}


def drill(path: Path) -> dict[str, Any]:
    """Restore a backup into a scratch home and query it; see `stores.restore.drill`."""
    from madang.resources.rights import OWNER
    from madang.stores.restore import drill as try_out

    return {**try_out(path, OWNER), "sha256": backup_said(path)["sha256"]}


def finish_restore(home: Home) -> None:
    """Bring a restore to its end that was interrupted after it was decided; nothing may run."""
    from madang.stores import swap

    swap.finish(home)


def newer_files(home: Home) -> Iterator[MadangError]:
    """Tell of each file of a home that a newer Madang has written, in a form unknown here."""
    for path in home.marked:
        try:
            with contextlib.suppress(OSError, ValueError, RecursionError):  # damage is no form
                refuse_newer_form(path, json.loads(path.read_bytes()))
        except Corrupt as error:
            yield error


def refuse_newer(home: Home) -> None:
    """Raise `Corrupt` for a home that a newer Madang has written; looks, and touches nothing."""
    from madang.stores import peek

    peek.refuse_newer(home, settings.given_database_url() or settings.database_url(home))
    for error in newer_files(home):
        raise error


def examine_state(home: Home) -> tuple[Health, str]:
    """Read the state that no control has open; see `stores.peek.examine`."""
    from madang.stores import peek

    return peek.examine(home, settings.database_url(home))


def stored(home: Home) -> Snapshot:
    """Return what a state that no control has open says of the world; nothing is seen of it."""
    from madang.app.plugs import engines
    from madang.clocks import SystemClock
    from madang.planning.snapshot import Snapshot
    from madang.resources.resource import AnyResource, Ref
    from madang.resources.rights import OWNER
    from madang.stores import peek

    term, resources = peek.stored(home, settings.database_url(home), OWNER)
    kept: dict[str, dict[Ref, AnyResource]] = {}
    for each in resources:
        kept.setdefault(each.kind, {})[each.ref] = each
    facts = {name: engine.facts for name, engine in engines(home).items()}
    return Snapshot(now=SystemClock().now(), term=term, kept=kept, engines=facts)


def schema_versions() -> tuple[str, ...]:
    """Return every version of the tables that this Madang knows, oldest first."""
    from madang.stores.migrations import VERSIONS

    return VERSIONS


def file_system(path: Path) -> str:
    """Return the type of the file system below a path."""
    from madang.stores import place

    return place.file_system(path)


def network_file_system(home: Home) -> str:
    """Return what the home lies on if that can't keep state safely; empty when it can."""
    from madang.stores.place import NETWORK_FILE_SYSTEMS, file_system

    kind = file_system(home.path)
    return kind if kind in NETWORK_FILE_SYSTEMS else ""
