"""What holds for the SQLite store only: its file, its lock, its bounds, its bad days."""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from madang.errors import Corrupt, MadangError, Rejected, Unavailable
from madang.ports import Write
from madang.resources.event import Event
from madang.resources.replica import Replica, ReplicaPhase, ReplicaSpec, ReplicaStatus
from madang.resources.rights import CONTROL
from madang.settings import Home
from madang.stores import lane, place, queries
from madang.stores.sql import Kept
from madang.stores.sqlite import SqliteStore


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
async def store(home: Home) -> AsyncIterator[SqliteStore]:
    ready = SqliteStore(home)
    await ready.open()
    yield ready
    await ready.close()


def replica(name: str, **more: Any) -> Replica:
    spec = ReplicaSpec(service="bot", revision="bot-1")
    status = ReplicaStatus(
        phase=ReplicaPhase.READY, node="n1", accelerators=("n1-gpu0",), url="http://127.0.0.1:1",
        memory_bytes=8 * 10**10, epoch=3, started_at=1.5, ready_at=2.5,
    )  # fmt: skip
    return Replica(project="org/team", name=name, uid=name, spec=spec, status=status, **more)


async def put(store: SqliteStore, *names: str, pad: int = 0) -> list[Any]:
    told = Event(at=0, actor="a", code="c", kind="replica", name="n", values={"pad": "x" * pad})
    return list(await store.commit(CONTROL, [Write(replica(name)) for name in names], [told]))


async def refused_opening(store: SqliteStore) -> MadangError:
    with pytest.raises(MadangError) as refused:
        await store.open()
    await store.close()
    return refused.value


def pragma(store: SqliteStore, name: str) -> Any:
    return store._lane.outside(lambda c: c.connection.execute(f"PRAGMA {name}").fetchone()[0])


async def test_every_commit_reaches_the_disk_before_it_is_acknowledged(store: SqliteStore) -> None:
    full = 2
    assert await pragma(store, "journal_mode") == "wal"
    assert await pragma(store, "synchronous") == full
    assert await pragma(store, "foreign_keys") == 1
    assert await pragma(store, "busy_timeout") == 5000


async def test_what_waits_together_is_committed_together(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = []
    monkeypatch.setattr(queries, "prune_events", lambda _c, _kept: groups.append(1))
    monkeypatch.setattr(lane, "GROUP_MAX", 50)
    store = SqliteStore(home)
    await store.open()
    groups.clear()
    blocker = asyncio.create_task(store._lane.outside(lambda _c: time.sleep(0.05)))
    await asyncio.gather(blocker, *(put(store, f"r{n}") for n in range(100)))
    assert len(groups) == 2
    assert len((await store.load(CONTROL))[1]) == 100
    await store.close()


async def test_too_many_waiting_writes_are_refused_and_the_rest_arrive(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "WAITING_MAX", 10)
    jobs = [put(store, f"r{n}") for n in range(30)]
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    busy = [each for each in outcomes if isinstance(each, Unavailable)]
    assert busy
    assert {each.code for each in busy} == {"store.busy"}
    assert len((await store.load(CONTROL))[1]) == 30 - len(busy)


async def test_only_the_owner_can_read_the_files(store: SqliteStore, home: Home) -> None:
    await put(store, "r")
    modes = {path.name: path.stat().st_mode & 0o777 for path in home.path.iterdir()}
    assert modes == dict.fromkeys(
        ["state.db", "state.db-wal", "state.db-shm", "control.lock"], 0o600
    )
    assert home.path.stat().st_mode & 0o777 == 0o700


async def test_whoever_holds_the_home_is_named(store: SqliteStore, home: Home) -> None:
    refusal = await refused_opening(SqliteStore(home))
    assert isinstance(refusal, Unavailable)
    assert refusal.code == "store.held"
    assert refusal.values["pid"] == str(os.getpid())


async def test_the_same_store_can_be_opened_again_once_the_holder_is_gone(home: Home) -> None:
    first, second = SqliteStore(home), SqliteStore(home)
    await first.open()
    assert (await refused_opening(second)).code == "store.held"
    await first.close()
    assert await second.open() == 2
    await second.close()


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "fuse.sshfs"])
async def test_a_home_on_a_network_file_system_is_refused(home: Home, kind: str) -> None:
    refusal = await refused_opening(SqliteStore(home, file_system=lambda _path: kind))
    assert isinstance(refusal, Rejected)
    assert refusal.code == "store.network-file-system"
    assert refusal.values["filesystem"] == kind
    assert not home.path.exists()


def test_the_nearest_mount_above_a_path_names_its_file_system(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "40 21 0:50 / /srv rw - xfs /dev/sdb rw\n"
        r"41 21 0:51 / /srv/my\040share rw - nfs4 host:/x rw" + "\n"
        "42 40 0:52 / /srv rw - btrfs /dev/sdc rw\n"
    )
    kinds = [
        place.file_system(Path(path), mounts)
        for path in ("/srv/my share/home", "/srv/other", "/home", "/srv/my shared")
    ]
    assert kinds == ["nfs4", "btrfs", "ext4", "btrfs"]
    assert place.file_system(tmp_path) != ""
    assert place.file_system(tmp_path, tmp_path / "absent") == ""


async def test_a_full_disk_undoes_the_write_and_later_ones_work(
    store: SqliteStore,
) -> None:
    await put(store, "before")
    pages = await pragma(store, "page_count")
    await pragma(store, f"max_page_count={pages + 4}")
    many = [f"r{n}" for n in range(200)]
    outcomes = await asyncio.gather(put(store, *many), put(store, "beside"), return_exceptions=True)
    refused = [each for each in outcomes if isinstance(each, Unavailable)]
    assert refused[0] is outcomes[0]
    for refusal in refused:
        assert refusal.code == "store.write-failed"
        assert "full" in str(refusal.values["cause"])
    kept = ["before", "beside"][: 3 - len(refused)]  # where it came too late for the same group
    assert [each.name for each in (await store.load(CONTROL))[1]] == kept
    assert len(await store.events(CONTROL)) == len(kept)
    await pragma(store, "max_page_count=1000000")
    (stored, *_) = await put(store, *many)
    assert (await store.load(CONTROL))[0] == stored.resource_version


LIMITED = """
import asyncio, resource, sys
from pathlib import Path
from madang.errors import Unavailable
from madang.resources.rights import CONTROL
from madang.resources.event import Event
from madang.settings import Home
from madang.stores.sql import Kept
from madang.stores.sqlite import SqliteStore

async def main():
    store = SqliteStore(Home(Path(sys.argv[1])))
    await store.open()
    told = [Event(at=0, actor="a", code="c", kind="k", name="n", values={"pad": "x" * 900})]
    await store.commit(CONTROL, [], told)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, most))
    count = 1
    try:
        while True:
            await store.commit(CONTROL, [], told * 20)
            count += 20
    except Unavailable as error:
        assert error.code == "store.write-failed", error
    assert len(await store.events(CONTROL, limit=10_000)) == count
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    await store.commit(CONTROL, [], told)
    assert len(await store.events(CONTROL, limit=10_000)) == count + 1
    await store.close()
    print("usable again after", count)

asyncio.run(main())
"""


def test_a_disk_that_stops_writing_harms_nothing_acknowledged(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usable again")


async def test_a_home_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    refusal = await refused_opening(SqliteStore(Home(tmp_path / "file" / "home")))
    assert isinstance(refusal, Unavailable)
    assert refusal.code == "store.write-failed"


async def test_a_file_of_rubbish_is_corrupt_and_left_alone(home: Home) -> None:
    home.path.mkdir()
    home.state.write_bytes(b"not a database" * 1000)
    refusal = await refused_opening(SqliteStore(home))
    assert isinstance(refusal, Corrupt)
    assert refusal.code == "store.damaged"
    assert home.state.read_bytes() == b"not a database" * 1000


async def test_a_damaged_page_is_found_at_opening(home: Home) -> None:
    store = SqliteStore(home)
    await store.open()
    await put(store, *(f"r{n}" for n in range(300)))
    await store.close()
    size = home.state.stat().st_size
    with home.state.open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(b"\xff" * 4096)
    assert (await refused_opening(SqliteStore(home))).code == "store.damaged"


async def test_another_programs_database_is_not_touched(home: Home) -> None:
    home.path.mkdir()
    other = sqlite3.connect(home.state)
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    refusal = await refused_opening(SqliteStore(home))
    assert isinstance(refusal, Corrupt)
    assert refusal.code == "store.not-ours"


def edit(home: Home, statement: str) -> None:
    connection = sqlite3.connect(home.state)
    connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize("statement", [
    "UPDATE resources SET status = '{\"phase\": \"dancing\"}'",
    "UPDATE resources SET spec = '{'",
    "UPDATE resources SET kind = 'teapot'",
])  # fmt: skip
async def test_a_row_that_cannot_be_read_is_named(home: Home, statement: str) -> None:
    store = SqliteStore(home)
    await store.open()
    await put(store, "odd")
    await store.close()
    edit(home, statement)
    await store.open()
    with pytest.raises(Corrupt) as refused:
        await store.load(CONTROL)
    await store.close()
    assert refused.value.code == "store.unreadable"
    assert refused.value.subject.endswith("/odd")


async def test_only_the_newest_tombstones_stay_and_late_readers_are_told(home: Home) -> None:
    store = SqliteStore(home, kept=Kept(tombstones=3))
    await store.open()
    versions = []
    for name in "abcdef":
        (stored,) = await put(store, name)
        await store.commit(CONTROL, [Write(stored, gone=True)])
        versions.append(stored.resource_version)
    fed = [(each.name, gone) for each, gone in await store.changes(CONTROL, 0)]
    assert fed == [("d", True), ("e", True), ("f", True)]
    with pytest.raises(Rejected) as refused:
        await store.changes(CONTROL, versions[0])
    assert refused.value.code == "store.feed-pruned"
    late = [each.name for each, _ in await store.changes(CONTROL, versions[3])]
    assert late == ["d", "e", "f"]
    await store.close()


async def test_tombstones_above_the_bound_go_in_steps(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "PRUNE_STEP", 4)
    store = SqliteStore(home, kept=Kept(tombstones=2))
    await store.open()
    stored = await put(store, *(f"r{n}" for n in range(11)))
    left = []
    await store.commit(CONTROL, [Write(each, gone=True) for each in stored])
    for _ in range(3):
        left.append(len(await store.changes(CONTROL, 0)))
        await store.commit(CONTROL, [], [])
    assert left == [7, 3, 2]
    await store.close()


async def test_only_the_newest_events_are_kept_and_the_rest_goes_in_steps(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "PRUNE_STEP", 4)
    store = SqliteStore(home, kept=Kept(events=5))
    await store.open()
    told = [Event(at=n, actor="a", code="c", kind="k", name="n") for n in range(15)]
    await store.commit(CONTROL, [], told)
    left = [len(await store.events(CONTROL))]
    for _ in range(3):
        await store.commit(CONTROL, [], [])
        left.append(len(await store.events(CONTROL)))
    assert left == [11, 7, 5, 5]
    assert [each.at for each in await store.events(CONTROL)] == [10, 11, 12, 13, 14]
    await store.commit(CONTROL, [], told[:1])
    assert [each.seq for each in await store.events(CONTROL)] == [12, 13, 14, 15, 16]
    await store.close()


async def test_a_backup_is_a_store_of_its_own(store: SqliteStore, home: Home) -> None:
    stored = await put(store, "a", "b")
    copy = Home(home.path / "copy")
    await store.backup(CONTROL, copy.state)
    await put(store, "later")
    assert sorted(path.name for path in copy.path.iterdir()) == ["state.db"]
    assert copy.state.stat().st_mode & 0o777 == 0o600
    other = SqliteStore(copy)
    assert await other.open() == 2
    assert await other.load(CONTROL) == (stored[0].resource_version, stored)
    assert len(await other.events(CONTROL)) == 1
    await other.close()


async def test_a_backup_replaces_nothing_and_leaves_no_part_behind(
    store: SqliteStore, tmp_path: Path
) -> None:
    taken = tmp_path / "taken.db"
    taken.write_text("mine")
    with pytest.raises(Rejected) as refused:
        await store.backup(CONTROL, taken)
    assert refused.value.code == "store.backup-exists"
    assert taken.read_text() == "mine"
    with pytest.raises(Unavailable) as failed:
        await store.backup(CONTROL, taken / "below" / "copy.db")
    assert failed.value.code == "store.backup-failed"
    assert not list(tmp_path.glob("*.part"))


async def test_a_start_waits_for_who_only_reads_and_not_for_another_control(home: Home) -> None:
    first = SqliteStore(home)
    await first.open()
    await first.close()
    with home.control_lock.open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        asyncio.get_running_loop().call_later(0.2, fcntl.flock, reader, fcntl.LOCK_UN)
        second = SqliteStore(home)
        await second.open()
    assert (await refused_opening(SqliteStore(home))).code == "store.held"
    await second.close()
