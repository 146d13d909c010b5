"""A lost key, a second place that moves or is gone, a control that is killed before its head."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from madang.control import doctor
from madang.governance.chain import Proof, verify
from madang.governance.heads import SEED_BYTES, HeadsFile, Signer
from madang.resources.event import AuditRecord
from madang.settings import Home, audit_heads, audit_keys
from madang.stores.postgres import PostgresStore
from madang.testing.postgres import PostgresServer, running

from .conftest import Yard, opened

OLD, NEW = (Signer(letter * SEED_BYTES) for letter in (b"k", b"z"))
SEED = {"seed": b"z" * SEED_BYTES}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.path.mkdir()
    return made


@asynccontextmanager
async def life(home: Home, **edges: Any):
    """One life of control, with one key made in it, vouched for at its end."""
    async with opened(home, **edges) as yard:
        await yard.desk.notary.vouch()
        await yard.post("key", {"name": f"k{yard.desk.world.term}"})
        yield yard
        await yard.desk.notary.vouch()


async def lived(home: Home, **edges: Any) -> None:
    async with life(home, **edges):
        pass


async def records_of(yard: Yard) -> list[AuditRecord]:
    return [AuditRecord.model_validate(r) for r in (await yard.get("audit"))["items"]]


async def proof(yard: Yard, *signers: Signer) -> Proof:
    await yard.desk.notary.vouch()
    heads = HeadsFile(audit_heads(yard.home, {})).all()
    keys = [each.key for each in signers]
    return verify(await records_of(yard), heads, yard.desk.world.store.id, keys)


async def unwell(yard: Yard) -> set[str]:
    return {f["code"] for f in (await yard.get("doctor"))["items"] if not f["ok"]}


def codes(found: Proof) -> set[str]:
    return {fault.code for fault in found.faults}


async def changes(yard: Yard, code: str) -> list[AuditRecord]:
    return [record for record in await records_of(yard) if record.code == code]


async def test_a_key_that_was_lost_is_on_record_and_its_heads_stay_checkable(home: Home) -> None:
    await lived(home)
    async with life(home, **SEED) as yard:
        (change,) = await changes(yard, "audit.key-changed")
        assert change.values == {"before": OLD.key, "after": NEW.key}
        assert [(k.key, k.seq) for k in audit_keys(home)] == [(OLD.key, 1), (NEW.key, change.seq)]
        assert "doctor.audit-rekeyed" in await unwell(yard)
        both = await proof(yard, OLD, NEW)
        assert both.holds
        assert both.keys == ((1, OLD.key), (change.seq, NEW.key))
        (fault,) = (await proof(yard, OLD)).faults
        assert (fault.code, fault.values["seq"]) == ("audit.other-key", change.seq)
        assert codes(await proof(yard, NEW)) == {"audit.forged-head"}
        assert codes(await proof(yard, NEW, OLD)) >= {"audit.old-key"}
        events = (await yard.get("event", limit=1000))["items"]
        assert [e["actor"] for e in events if e["code"] == "audit.key-changed"] == ["control"]
    async with life(home, **SEED) as yard:
        assert len(await changes(yard, "audit.key-changed")) == 1, "said once"
        assert "doctor.audit-rekeyed" in await unwell(yard), "and remembered for a week"


async def test_a_change_of_key_is_said_once_though_control_died_in_the_middle(home: Home) -> None:
    await lived(home)
    known, place = home.audit_public.read_bytes(), audit_heads(home, {})
    heads = place.read_bytes()
    await lived(home, **SEED)
    home.audit_public.write_bytes(known)
    place.write_bytes(heads)
    async with life(home, **SEED) as yard:
        (change,) = await changes(yard, "audit.key-changed")
        assert audit_keys(home)[-1].seq == change.seq
        assert (await proof(yard, OLD, NEW)).holds


async def test_a_key_of_which_even_the_public_half_is_lost_is_known_by_its_heads(
    home: Home,
) -> None:
    await lived(home)
    home.audit_public.unlink()
    async with life(home, **SEED) as yard:
        assert [k.key for k in audit_keys(home)] == [OLD.key, NEW.key]
        assert len(await changes(yard, "audit.key-changed")) == 1


async def test_a_head_of_the_key_that_was_lost_is_found(home: Home) -> None:
    await lived(home)
    async with life(home, **SEED) as yard:
        await yard.desk.notary.vouch()
        last = (await records_of(yard))[-1]
        store, place = yard.desk.world.store.id, HeadsFile(audit_heads(home, {}))
        place.append(OLD.sign(store, last.seq, last.digest, 1.0))
        assert codes(await proof(yard, OLD, NEW)) == {"audit.old-key"}


async def test_a_second_place_that_was_chosen_is_kept_and_its_change_on_record(home: Home) -> None:
    usual, far = audit_heads(home, {}), home.path.parent / "far" / "heads.jsonl"
    await lived(home)
    async with life(home, heads=far) as yard:
        (change,) = await changes(yard, "audit.heads-moved")
        assert change.values == {"before": str(usual), "after": str(far)}
        assert audit_heads(home, {}) == far, "a later start needs no variable"
        assert not {"doctor.heads-missing"} & await unwell(yard)
        assert (await proof(yard, OLD)).holds
    async with life(home) as yard:
        assert len(await changes(yard, "audit.heads-moved")) == 1
    async with life(home, heads=usual) as yard:
        assert len(await changes(yard, "audit.heads-moved")) == 2
        assert audit_heads(home, {}) == usual


async def test_a_first_start_has_nothing_to_say(home: Home) -> None:
    async with life(home, heads=home.path.parent / "far.jsonl") as yard:
        for code in ("audit.heads-moved", "audit.key-changed"):
            assert await changes(yard, code) == []
        assert "doctor.audit-rekeyed" not in await unwell(yard)


async def test_heads_that_are_gone_are_missed(home: Home) -> None:
    async with life(home) as yard:
        assert "doctor.heads-missing" not in await unwell(yard)
        await yard.desk.notary.vouch()
        audit_heads(home, {}).unlink()
        assert "doctor.heads-missing" in await unwell(yard)
        await yard.post("key", {"name": "more"})
    audit_heads(home, {}).unlink()
    async with life(home) as yard:
        assert "doctor.heads-missing" in await unwell(yard), "begun anew, and not in silence"


async def test_heads_that_can_not_be_written_are_named_before_they_must_be(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with life(home) as yard:
        found = (await yard.get("doctor"))["items"]
        assert [f["ok"] for f in found if f["code"] == "doctor.heads-near"] == [True]
        monkeypatch.setattr(doctor.os, "access", lambda _path, mode: mode != doctor.os.W_OK)
        assert "doctor.heads-unwritable" in await unwell(yard)


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from madang.governance.heads import HeadsFile
from madang.resources.event import Event
from madang.resources.rights import OWNER
from madang.settings import Home
from madang.testing.control import Edges, opened
from madang.testing.node import PaperNode

def die(heads, head):
    part = head.model_dump_json().encode()[: int(sys.argv[2])]
    with heads.path.open("ab") as file:
        file.write(part)
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with opened(Home(Path(sys.argv[1])), Edges(PaperNode())) as desk:
        await desk.notary.vouch()
        HeadsFile.append = die
        told = Event(at=1.0, actor="owner", code="home.backup-begun", kind="home", name="home")
        await desk.world.commit(OWNER, events=[told])
        print("acknowledged", flush=True)
        await desk.notary.vouch()

asyncio.run(main())
"""


@pytest.mark.parametrize("written_bytes", [0, 1, 150])
async def test_control_killed_between_a_commit_and_its_head_vouches_for_it_later(
    home: Home, written_bytes: int
) -> None:
    command = [sys.executable, "-c", KILLED, str(home.path), str(written_bytes)]
    done = subprocess.run(  # noqa: ASYNC221 - nothing else runs here
        command, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "acknowledged\n"), done.stderr
    async with opened(home) as yard:
        found = await proof(yard, OLD)
        assert found.holds
        assert found.vouched == found.last
        assert len(await changes(yard, "home.backup-begun")) == 1


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A database of this file alone."""
    with running() as made:
        yield made


async def test_records_in_postgresql_are_vouched_for_in_the_same_way(
    home: Home, server: PostgresServer
) -> None:
    database = server.make_database()

    def store() -> PostgresStore:
        return PostgresStore(home, server.url(database), hold_wait_s=5.0)

    async with life(home, store=store()) as yard:
        assert (await proof(yard, OLD)).holds
    async with life(home, store=store(), **SEED) as yard:
        assert (await proof(yard, OLD, NEW)).holds
        assert len(await changes(yard, "audit.key-changed")) == 1
    with server.connect(database) as raw:
        raw.execute("UPDATE audit SET actor = 'key/somebody' WHERE seq = 1")
        raw.commit()
    async with opened(home, store=store(), **SEED) as yard:
        assert codes(await proof(yard, OLD, NEW)) == {"audit.changed"}
    with server.connect(database) as raw:
        raw.execute("DELETE FROM audit WHERE seq > 2")
        raw.commit()
    async with opened(home, store=store(), **SEED) as yard:
        await yard.desk.notary.vouch()
        assert "doctor.audit-torn" in await unwell(yard)
