"""A restore into a PostgreSQL database: old or new, home and database together."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from tests.stores.test_restore import live, refused, taken

from madang import settings
from madang.errors import Rejected, Unavailable
from madang.resources.rights import CONTROL
from madang.settings import Home
from madang.stores import migrations, restore, swap
from madang.stores.postgres import PostgresStore
from madang.stores.sqlite import SqliteStore
from madang.testing.postgres import PostgresServer

from .conftest import Doomed

STEPS_MAX = 200


def living_in(home: Home, url: str, title: str = "old") -> Home:
    """Give a home whose state is in a database, and all of it says the same."""
    asyncio.run(live(home, title))
    home.database.write_text(url)
    said(home)  # an empty database takes in what the file holds
    assert not home.state.exists()
    return home


def said(home: Home) -> str:
    """Open a home as its next start does and return the one word that all of it says."""

    async def titles() -> set[str]:
        url = settings.database_url(home)
        store = PostgresStore(home, url) if url else SqliteStore(home)
        await store.open()
        try:
            _, found = await store.load(CONTROL)
            await store.health()
            return {each.spec.title for each in found}
        finally:
            await store.close()

    swap.finish(home)
    found = asyncio.run(titles())
    found |= {path.read_text() for path in (home.secret, home.admin_key) if path.exists()}
    (word,) = found
    return word


def put_back(home: Home, file: Path, url: str, *, replace: bool = True) -> restore.Restored:
    return restore.restore(home, file, CONTROL, replace=replace, url=url)


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.url(postgres.make_database())


def test_a_home_in_a_database_is_replaced_there_and_the_old_one_is_a_home_again(
    tmp_path: Path, url: str
) -> None:
    file, home = taken(tmp_path), living_in(Home(tmp_path / "home"), url)
    assert refused(lambda: put_back(home, file, url, replace=False)).code == "restore.home-taken"
    assert said(home) == "old"
    done = put_back(home, file, url)
    assert done.database
    assert done.aside is not None
    assert not home.state.exists()
    assert (said(home), said(Home(done.aside))) == ("new", "old")
    assert {p.stat().st_mode & 0o77 for p in (home.secret, Home(done.aside).state)} == {0}
    again = put_back(home, file, url)
    assert again.aside not in {None, done.aside}
    assert said(home) == "new"


def test_an_empty_home_and_an_empty_database_become_what_the_backup_says(
    tmp_path: Path, url: str
) -> None:
    file, home = taken(tmp_path), Home(tmp_path / "home")
    done = put_back(home, file, url, replace=False)
    assert (done.aside, said(home), settings.database_url(home)) == (None, "new", url)
    assert home.database.stat().st_mode & 0o777 == 0o600
    assert not home.state.exists()


def test_a_database_with_a_state_is_replaced_only_when_told(tmp_path: Path, url: str) -> None:
    file, lost = taken(tmp_path), living_in(Home(tmp_path / "lost"), url)
    home = Home(tmp_path / "home")
    error = refused(lambda: put_back(home, file, url, replace=False))
    assert (type(error), error.code) == (Rejected, "restore.database-taken")
    assert swap.entries(home) == []
    assert settings.database_url(home) == ""
    assert said(lost) == "old"
    done = put_back(home, file, url)
    assert done.aside is not None
    assert (said(home), said(Home(done.aside))) == ("new", "old")


def test_a_home_moves_to_another_database_and_the_first_one_stays(
    tmp_path: Path, url: str, postgres: PostgresServer
) -> None:
    file, home = taken(tmp_path), living_in(Home(tmp_path / "home"), url)
    other = postgres.url(postgres.make_database())
    done = put_back(home, file, other)
    assert done.aside is not None
    assert settings.database_url(home) == other
    assert (said(home), said(Home(done.aside))) == ("new", "old")


def test_two_states_are_never_replaced_by_one(tmp_path: Path, url: str) -> None:
    file, home = taken(tmp_path), Home(tmp_path / "home")
    there = living_in(Home(tmp_path / "there"), url, "there")
    asyncio.run(live(home, "here"))
    assert refused(lambda: put_back(home, file, url)).code == "store.two-states"
    assert (said(home), said(there)) == ("here", "there")


def test_a_database_that_a_newer_madang_has_written_is_left_alone(
    tmp_path: Path, url: str, postgres: PostgresServer
) -> None:
    file, home = taken(tmp_path), living_in(Home(tmp_path / "home"), url)
    database = url.partition("@/")[2].partition("?")[0]
    with postgres.connect(database) as admin:
        admin.execute("UPDATE alembic_version SET version_num = '9999'")
    error = refused(lambda: put_back(home, file, url))
    assert (type(error), error.code) == (Rejected, "restore.database-unfit")
    with postgres.connect(database) as admin:
        admin.execute("UPDATE alembic_version SET version_num = %s", [migrations.VERSIONS[-1]])
    assert said(home) == "old"


def test_a_database_that_somebody_holds_is_refused(tmp_path: Path, url: str) -> None:
    async def held() -> None:
        store = PostgresStore(Home(tmp_path / "other"), url)
        await store.open()
        error = await asyncio.to_thread(refused, lambda: put_back(home, file, url))
        assert (type(error), error.code) == (Unavailable, "store.held")
        await store.close()

    file, home = taken(tmp_path), Home(tmp_path / "home")
    asyncio.run(held())


def test_what_others_may_see_of_the_tables_stays_theirs(
    tmp_path: Path, url: str, postgres: PostgresServer
) -> None:
    file, home = taken(tmp_path), living_in(Home(tmp_path / "home"), url)
    with postgres.connect(url.partition("@/")[2].partition("?")[0]) as admin:
        admin.execute("CREATE VIEW orgs AS SELECT name FROM resources")
        put_back(home, file, url)
        assert admin.execute("SELECT count(*) FROM orgs").fetchall() == [(3,)]


def test_a_commit_whose_answer_is_lost_is_finished_by_the_next_start(
    tmp_path: Path, url: str, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decide_and_cut(folder: Path) -> None:
        decide(folder)
        with postgres.connect("postgres") as admin:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                          "WHERE application_name LIKE 'madang %'")  # fmt: skip

    decide = swap.decide
    file, home = taken(tmp_path), living_in(Home(tmp_path / "home"), url)
    with monkeypatch.context() as patched:
        patched.setattr(swap, "decide", decide_and_cut)
        error = refused(lambda: put_back(home, file, url))
    assert (type(error), error.code) == (Unavailable, "restore.unfinished")
    assert said(home) == "new"
    (aside,) = home.path.glob("replaced-*")
    assert said(Home(aside)) == "old"


def test_what_fails_before_it_is_decided_changes_nothing(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_folder: Path) -> None:
        raise OSError(28, "No space left on device")

    file, home = taken(tmp_path), living_in(Home(tmp_path / "home"), url)
    with monkeypatch.context() as patched:
        patched.setattr(swap, "decide", full)
        assert refused(lambda: put_back(home, file, url)).code == "restore.failed"
    assert not list(home.path.glob("re*"))
    assert said(home) == "old"


@pytest.mark.timeout(600)
def test_killed_at_every_step_home_and_database_are_both_old_or_both_new(
    tmp_path: Path, doomed: Doomed, postgres: PostgresServer
) -> None:
    file, template = taken(tmp_path), postgres.make_database()
    first = living_in(Home(tmp_path / "first"), postgres.url(template))
    words, step = [], 0
    while step < STEPS_MAX:
        step += 1
        database = postgres.make_database(like=template)
        home = Home(tmp_path / f"home-{step}")
        shutil.copytree(first.path, home.path)
        home.database.write_text(postgres.url(database))
        doomed.send("restore", step, home.path, file)
        status = doomed.ended()
        words.append(said(home))
        asides = [said(Home(p)) for p in home.path.glob("replaced-*")]
        assert asides == (["old"] if words[-1] == "new" else []), step
        postgres.drop_database(database)
        if status == 0:
            break
        assert status == 9
    assert words == sorted(words, reverse=True), "once new, never old again"
    assert {"old", "new"} == set(words)
    assert words.count("new") > 10, "the commit and every rename after the decision were tried"
