"""A bit that flips on the disk is found and named, or it lay where nothing is."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from madang.errors import Corrupt, MadangError
from madang.ports import Reply, Write
from madang.resources.event import Event
from madang.resources.rights import CONTROL, Principal, Role
from madang.resources.tenancy import Empty, Organization, TitleSpec
from madang.settings import Home
from madang.stores.sqlite import SqliteStore
from madang.traffic.table import Usage

TRIALS = 60
NAMES = {"store.damaged", "store.unreadable", "store.not-ours", "store.newer-version",
         "audit.broken"}  # fmt: skip
OPERATOR = Principal(uid="key-1", actor="key/admin", role=Role.OPERATOR)


def organization(number: int) -> Organization:
    name = f"org-{number}"
    title = TitleSpec(title=f"기관 {number}")
    return Organization(project=name, name=name, uid=name, spec=title, status=Empty())


def usage(number: int) -> Usage:
    return Usage(
        id=f"u{number}", at=number, key="k", project="org", endpoint=f"e{number % 3}", replica="r",
        prompt_tokens=number, cached_tokens=0, output_tokens=2, status=200, duration_s=0.5,
        first_token_s=None, estimated=False, key_uid=f"key-{number}", payer=f"org/p{number}",
    )  # fmt: skip


async def populate(home: Home) -> None:
    store = SqliteStore(home)
    await store.open()
    kept = []
    for number in range(40):
        told = Event(at=number, actor="a", code="c", kind="k", name=f"n{number}")
        reply = Reply(f"r{number}", "asked", 1.0, "the answer")
        kept += await store.commit(
            OPERATOR, [Write(organization(number))], [told], lambda _s, r=reply: r
        )
    await store.commit(OPERATOR, [Write(each, gone=True) for each in kept[:10]])
    await store.record_usage(CONTROL, [usage(number) for number in range(60)])
    await store.close()


async def everything(store: SqliteStore) -> Any:
    """Read all that a store has; raises where it can't be."""
    await store.health()
    digest = ""
    for record in await store.audit(CONTROL):
        if record.sealed(digest) != record:  # as `madang audit verify` and a drill see it
            raise Corrupt("audit.broken", f"audit/{record.seq}")
        digest = record.digest
    return (
        await store.load(CONTROL),
        await store.changes(CONTROL, 0),
        await store.events(CONTROL),
        await store.audit(CONTROL),
        await store.record_usage(CONTROL, []),
        await store.spent(CONTROL, 0, 197001),
        [await store.reply(CONTROL, f"r{number}") for number in range(40)],
    )


async def outcome(home: Home) -> Any:
    """Return what is read from a home, or by what name it is refused."""
    store = SqliteStore(home)
    try:
        await store.open()
        return await everything(store)
    except MadangError as error:
        return error
    finally:
        await store.close()


async def test_a_flipped_bit_is_named_or_changes_nothing_that_can_be_read(tmp_path: Path) -> None:
    whole = Home(tmp_path / "whole")
    await populate(whole)
    before = await outcome(whole)
    content = whole.state.read_bytes()
    chance, named = random.Random(20_261_126), 0
    for trial in range(TRIALS):
        home = Home(tmp_path / str(trial))
        home.path.mkdir()
        at, bit = chance.randrange(len(content)), 1 << chance.randrange(8)
        flipped = content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]
        home.state.write_bytes(flipped)
        found = await outcome(home)
        if isinstance(found, MadangError):
            assert found.code in NAMES, (at, bit, found)
            named += 1
        else:
            assert found == before, (at, bit)
    assert named > TRIALS / 4, "most of the file is in use"


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("resources", "spec = replace(spec, '기관 20', '기관 21')"),
        ("resources", "gone = 1 - gone"),
        ("events", "name = 'other'"),
        ("usage", "replica = 's'"),
        ("usage_totals", "output_tokens = output_tokens + 1"),
        ("spent", "used = used + 1"),
        ("replies", "answer = 'another'"),
        ("meta", "value = value + 1"),
    ],
)
async def test_a_changed_cell_that_can_still_be_read_is_named(
    tmp_path: Path, table: str, change: str
) -> None:
    home = Home(tmp_path / "home")
    await populate(home)
    with closing(sqlite3.connect(home.state)) as file:
        row = "SELECT max(rowid) FROM " + table
        if table == "resources":
            row = "SELECT rowid FROM resources WHERE name = 'org-20'"
        file.execute(f"UPDATE {table} SET {change} WHERE rowid = ({row})")
        file.commit()
    found = await outcome(home)
    assert isinstance(found, MadangError)
    assert found.code == "store.unreadable"
    assert "check sum" in found.values["cause"] or "total" in found.values["cause"]


async def test_no_backup_is_taken_of_a_state_with_a_changed_cell(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    await populate(home)
    with closing(sqlite3.connect(home.state)) as file:
        file.execute("UPDATE events SET name = 'other' WHERE seq = 3")
        file.commit()
    store = SqliteStore(home)
    await store.open()
    with pytest.raises(Corrupt) as refused:
        await store.backup(OPERATOR, tmp_path / "copy.db")
    await store.close()
    assert (refused.value.code, refused.value.subject) == ("store.unreadable", "events/3")
    assert not (tmp_path / "copy.db").exists()
