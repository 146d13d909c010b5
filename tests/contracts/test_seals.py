"""What stores on a disk promise beside: a cell that was changed where it lay is named."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from madang.errors import Corrupt
from madang.ports import Reply, Store, Write
from madang.resources.rights import CONTROL
from madang.settings import Home
from madang.stores.postgres import PostgresStore
from madang.stores.sqlite import SqliteStore
from madang.testing.postgres import PostgresServer

from .test_store import event, opened, service, usage

Spoiled = tuple[Store, Callable[[str], None]]


@pytest.fixture(params=["sqlite", "postgres"])
def spoiled(request: pytest.FixtureRequest, tmp_path: Path) -> Spoiled:
    """Give a store, and what changes its cells behind it; the one in memory has no behind."""
    home = Home(tmp_path / "home")
    if request.param == "sqlite":

        def change(statement: str) -> None:
            with closing(sqlite3.connect(home.state)) as file:
                file.execute(statement)
                file.commit()

        return SqliteStore(home), change
    server: PostgresServer = request.getfixturevalue("postgres")
    name = server.make_database()

    def change_row(statement: str) -> None:
        with server.connect(name) as admin:
            admin.execute(statement.encode())

    return PostgresStore(home, server.url(name), hold_wait_s=0.2), change_row


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE resources SET spec = replace(spec, 'qwen', 'kwen')",
        "UPDATE events SET name = 'other'",
        "UPDATE usage SET replica = 's' WHERE id = 'r1'",
        "UPDATE usage_totals SET output_tokens = output_tokens + 1",
        "UPDATE replies SET answer = 'another'",
        "INSERT INTO meta (name, value, crc) VALUES ('pruned', 5, 1)",
    ],
)
async def test_a_cell_that_was_changed_where_it_lay_is_named(
    spoiled: Spoiled, change: str, tmp_path: Path
) -> None:
    store, spoil = spoiled
    async with opened(store):
        reply = Reply("sent", "asked", 1.0, "the answer")
        await store.commit(CONTROL, [Write(service())], [event()], lambda _stored: reply)
        await store.record_usage(CONTROL, [usage(1), usage(2)])
        await store.health()
    spoil(change)
    async with opened(store):
        for look in (store.health, partial(store.backup, CONTROL, tmp_path / "copy.db")):
            with pytest.raises(Corrupt) as refused:
                await look()
            assert refused.value.code == "store.unreadable"
    assert not (tmp_path / "copy.db").exists()
