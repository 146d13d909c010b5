"""Audit records: every change with before and after, in a chain that can't be changed unseen."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from madang.errors import Rejected, Unavailable
from madang.governance.chain import verify
from madang.governance.heads import SEED_BYTES, Head, HeadsFile, Signer
from madang.ports import Write
from madang.resources.event import AuditRecord, Event
from madang.resources.rights import CONTROL, GATE, SETUP, Principal, Role
from madang.resources.tenancy import Empty, Organization, TitleSpec
from madang.settings import Home
from madang.stores.sqlite import SqliteStore

SIGNER = Signer(b"a" * SEED_BYTES)
WHO = Principal(actor="key/kim", role=Role.OPERATOR, uid="key-1")


def organization(number: int, title: str = "") -> Organization:
    name = f"org{number}"
    spec = TitleSpec(title=title or f"기관 {number}")
    return Organization(project=name, name=name, uid=f"o{number}", spec=spec, status=Empty())


async def written(home: Home, count: int = 10) -> tuple[list[AuditRecord], str]:
    """Make that many changes, and return what is on record of them."""
    store = SqliteStore(home)
    await store.open()
    for number in range(count):
        await store.commit(WHO, [Write(organization(number))])
    found = list(await store.audit(CONTROL))
    await store.close()
    return found, store.id


def signed(records: list[AuditRecord], store: str, *at: int) -> list[Head]:
    return [SIGNER.sign(store, seq, records[seq - 1].digest, 1.0) for seq in at or (len(records),)]


def codes(records: list[AuditRecord], heads: list[Head], store: str) -> set[str]:
    return {fault.code for fault in verify(records, heads, store, [SIGNER.key]).faults}


async def test_every_write_of_a_person_is_recorded_with_what_was_there_before(home: Home) -> None:
    store = SqliteStore(home)
    await store.open()
    (made,) = await store.commit(WHO, [Write(organization(1, "옛 이름"))])
    changed = made.model_copy(update={"spec": TitleSpec(title="새 이름"), "generation": 2})
    (stored,) = await store.commit(WHO, [Write(changed)])
    await store.commit(WHO, [Write(stored, gone=True)])
    await store.commit(
        WHO, [], [Event(at=5.0, actor="key/kim", code="backup.taken", kind="site", name="site")]
    )
    first, second, third, act = await store.audit(CONTROL)
    assert (first.before, second.after["spec"]["title"]) == (None, "새 이름")
    assert second.before["spec"]["title"] == "옛 이름"
    assert (third.before, third.after) == (stored.shown(), None)
    assert (act.code, act.before, act.after) == ("backup.taken", None, None)
    assert [r.seq for r in (first, second, third, act)] == [1, 2, 3, 4]
    assert {(r.actor, r.by) for r in (first, second, third, act)} == {("key/kim", "key-1")}
    await store.close()


async def test_the_loops_bookkeeping_is_no_audit_record_and_a_verdict_is(home: Home) -> None:
    store = SqliteStore(home)
    await store.open()
    await store.commit(CONTROL, [Write(organization(1))])
    assert list(await store.audit(CONTROL)) == []
    await store.commit(GATE, [Write(organization(2))])
    await store.commit(SETUP, [Write(organization(3))])
    assert [r.actor for r in await store.audit(CONTROL)] == ["gate", "control"]
    await store.close()


async def test_a_change_that_can_not_be_recorded_is_not_made(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(home)
    await store.open()
    raw = sqlite3.connect(home.state)
    raw.execute("CREATE TRIGGER no BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END")
    raw.close()
    with pytest.raises(Unavailable):
        await store.commit(WHO, [Write(organization(1))])
    assert await store.load(CONTROL) == (0, [])
    await store.close()


async def test_what_was_not_touched_holds(home: Home) -> None:
    records, store = await written(home)
    proof = verify(records, signed(records, store, 3, 10), store, [SIGNER.key])
    assert (proof.holds, proof.records, proof.vouched) == (True, 10, 10)
    assert verify([], [], store, [SIGNER.key]).holds
    fresh = verify(records, signed(records, store, 3), store, [SIGNER.key])
    assert (fresh.holds, fresh.vouched) == (True, 3)


Tamper = Callable[[list[AuditRecord]], list[AuditRecord]]


def rehashed(records: list[AuditRecord]) -> list[AuditRecord]:
    """Seal the records anew, as somebody would who can write the database."""
    digest, fresh = "", []
    for seq, record in enumerate(records, 1):
        sealed = record.model_copy(update={"seq": seq}).sealed(digest)
        fresh.append(sealed)
        digest = sealed.digest
    return fresh


def edited(records: list[AuditRecord]) -> list[AuditRecord]:
    return [r.model_copy(update={"actor": "key/lee"}) if r.seq == 4 else r for r in records]


TAMPERS: dict[str, tuple[Tamper, set[str]]] = {
    "edit": (edited, {"audit.changed"}),
    "edit, sealed anew": (lambda r: rehashed(edited(r)), {"audit.rewritten"}),
    "delete": (lambda r: r[:3] + r[4:], {"audit.gap"}),
    "delete, sealed anew": (
        lambda r: rehashed(r[:3] + r[4:]), {"audit.rewritten", "audit.cut-off"},
    ),
    "delete the first": (lambda r: r[1:], {"audit.gap"}),
    "reorder": (lambda r: [*r[:3], r[4], r[3], *r[5:]], {"audit.gap"}),
    "reorder, sealed anew": (
        lambda r: rehashed([*r[:3], r[4], r[3], *r[5:]]), {"audit.rewritten"},
    ),
    "insert": (lambda r: [*r[:3], r[3], *r[3:]], {"audit.gap"}),
    "insert, sealed anew": (lambda r: rehashed([*r[:3], r[0], *r[3:]]), {"audit.rewritten"}),
    "cut the tail": (lambda r: r[:8], {"audit.cut-off"}),
    "put an older state back": (lambda r: r[:5], {"audit.cut-off"}),
    "put an older state back, and go on": (
        lambda r: rehashed([*r[:5], *edited(r)[3:6], *r[3:6]]), {"audit.rewritten"},
    ),
    "cut everything": (lambda _: [], {"audit.cut-off"}),
}  # fmt: skip


@pytest.mark.parametrize("how", TAMPERS)
async def test_every_way_to_tamper_is_found(home: Home, how: str) -> None:
    records, store = await written(home)
    tamper, expected = TAMPERS[how]
    found = codes(tamper(records), signed(records, store, 5, 10), store)
    assert expected <= found, found


async def test_any_changed_value_of_any_record_is_found(home: Home) -> None:
    records, store = await written(home)
    heads = signed(records, store)
    rng = random.Random(4)
    for field in AuditRecord.model_fields:
        at = rng.randrange(len(records))
        old = getattr(records[at], field)
        other = {int: 99, float: 0.5, str: "0" * 64, dict: {"x": 1}}.get(type(old), {"x": 1})
        changed = [*records]
        changed[at] = records[at].model_copy(update={field: other})
        assert codes(changed, heads, store), field


async def test_heads_that_do_not_belong_are_told(home: Home) -> None:
    records, store = await written(home)
    (head,) = signed(records, store)
    other = Signer(b"b" * SEED_BYTES).sign(store, 10, records[-1].digest, 1.0)
    assert codes(records, [other], store) == {"audit.forged-head"}
    bent = head.model_copy(update={"at": 2.0})
    assert codes(records, [bent], store) == {"audit.forged-head"}
    assert codes(records, [head], "another") == {"audit.other-state"}
    assert codes(records, [], store) == {"audit.no-heads"}
    early = SIGNER.sign(store, 4, records[3].digest, 2.0)
    assert "audit.put-back" in codes(records, [head, early], store)


def test_the_second_place_only_grows_and_forgives_a_torn_line(tmp_path: Path) -> None:
    heads = HeadsFile(tmp_path / "far" / "heads.jsonl")
    assert heads.newest("s") is None
    for seq in (1, 2):
        heads.append(SIGNER.sign("s", seq, "0" * 64, 1.0))
    with heads.path.open("ab") as file:
        file.write(b'{"store": "s", "se')
    heads.append(SIGNER.sign("s", 3, "0" * 64, 1.0))
    assert [head.seq for head in heads.all()] == [1, 2, 3]
    assert heads.newest("s").seq == 3
    assert heads.newest("t") is None
    assert heads.path.stat().st_mode & 0o777 == 0o600
    with heads.path.open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(Rejected, match=r"audit\.bad-heads"):
        list(heads.all())


LIMITED = """
import resource, signal, sys
from pathlib import Path
from madang.errors import Unavailable
from madang.governance.heads import HeadsFile, Signer
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
heads, signer = HeadsFile(Path(sys.argv[1])), Signer(b"a" * 32)
heads.append(signer.sign("s", 1, "0" * 64, 1.0))
size = heads.path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, size + 10))
try:
    heads.append(signer.sign("s", 2, "0" * 64, 1.0))
except Unavailable as error:
    print(error.code, heads.path.stat().st_size == size)
"""


def test_a_full_second_place_keeps_what_it_has(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "heads.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "audit.unwritable True"


async def test_a_second_head_for_the_same_record_takes_the_first_one_back_for_nobody(
    home: Home,
) -> None:
    """Somebody edits the last record, and control, started again, signs what it finds."""
    records, store = await written(home)
    forged = rehashed([*records[:-1], records[-1].model_copy(update={"actor": "key/other"})])
    heads = signed(records, store, 5, 10) + signed(forged, store, 10)
    assert "audit.rewritten" in codes(forged, heads, store)


def test_heads_that_are_written_at_once_are_all_there(tmp_path: Path) -> None:
    """By two homes with one second place, say; their lines are of different lengths."""
    from concurrent.futures import ThreadPoolExecutor

    heads = [SIGNER.sign("s" * (seq % 40 + 1), seq, "0" * 64, 1.0) for seq in range(1, 101)]
    place = tmp_path / "heads.jsonl"
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda head: HeadsFile(place).append(head), heads))
    assert {head.seq for head in HeadsFile(place).all()} == set(range(1, 101))


MANY = """
import resource, sys
from pathlib import Path
from madang.governance.chain import verify
from madang.governance.heads import HeadsFile, Signer

def peak_kib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

from madang.resources.event import AuditRecord
key, store, digest, records = Signer(b"a" * 32).key, "s", "", []
for seq in range(1, 101):
    said = {"at": 1.0, "actor": "a", "by": "", "code": "c", "kind": "k", "project": "", "name": "n"}
    record = AuditRecord(seq=seq, **said, uid="u", before=None, after=None).sealed(digest)
    records.append(record)
    digest = record.digest
heads = HeadsFile(Path(sys.argv[1]))
line = [Signer(b"a" * 32).sign(store, r.seq, r.digest, 1.0).model_dump_json() for r in records]
with heads.path.open("w") as file:
    for each in line:
        file.write((each + "\\n") * 1000)
verify(records[:1], [], store, [key])
before = peak_kib()
proof = verify(records, heads.all(), store, [key])
assert proof.holds and proof.vouched == 100, proof
print(proof.heads, (peak_kib() - before) // 1024)
"""


@pytest.mark.timeout(300)
def test_a_hundred_thousand_heads_are_read_in_the_memory_of_one(tmp_path: Path) -> None:
    """A list of them all would take more than 100 MiB."""
    command = [sys.executable, "-c", MANY, str(tmp_path / "heads.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    heads, grown_mib = map(int, done.stdout.split())
    assert heads == 100_000
    assert grown_mib < 16


def test_the_newest_head_is_found_at_the_end_of_a_file_of_any_size(tmp_path: Path) -> None:
    heads = HeadsFile(tmp_path / "heads.jsonl")
    with heads.path.open("wb") as file:
        file.truncate(1 << 40)  # a hole: to read it all would take hours
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + SIGNER.sign("s", 7, "0" * 64, 1.0).model_dump_json().encode() + b"\n")
    newest = heads.newest("s")
    assert newest is not None
    assert newest.seq == 7
    with pytest.raises(Rejected, match=r"audit\.bad-heads"):
        list(heads.all())
