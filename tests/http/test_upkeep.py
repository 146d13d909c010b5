"""The days after, through the API: a backup while it runs, doctor on it, and the round trip."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from madang.errors import Rejected
from madang.resources.rights import OWNER
from madang.settings import BACKUP_AGE_S, Home, backup_age_s
from madang.stores import archive, restore
from madang.twin.record import read, replay

from .conftest import Yard, opened

HANGUL = [
    {"kind": "organization", "name": "서울시", "title": "서울특별시"},
    {"kind": "project", "name": "서울시/민원", "title": "민원 상담"},
    {"kind": "user", "name": "서울시/김", "title": "김 주무관",
     "roles": {"서울시/민원": "member", "서울시": "viewer"}},
    {"kind": "service", "name": "민원-봇", "project": "서울시/민원", "model": "라마",
     "needs": {"memory": "1.5GB", "count": 2, "accelerator": "nvidia"}, "scale": 3, "gate": []},
    {"kind": "service", "name": "plain", "project": "서울시/민원", "model": "라마"},
]  # fmt: skip


async def saved(yard: Yard, path: Path) -> archive.Listing:
    """Take a backup over the API, as the command does."""
    with archive.keeping(path) as write:
        async with yard.client.stream("POST", "/api/v1/backup") as answer:
            assert answer.status_code == 200
            async for piece in answer.aiter_bytes():
                write(piece)
    return archive.read(path)


async def found(yard: Yard, code: str) -> list[dict[str, Any]]:
    return [f for f in (await yard.get("doctor"))["items"] if f["code"].startswith(code)]


async def test_a_snapshot_comes_with_its_plan_and_replays(yard: Yard) -> None:
    await yard.add_model()
    await yard.apply({"kind": "service", "name": "bot", "model": "tiny"})
    await yard.until("service", "bot", "ready")
    answer = await yard.client.get("/api/v1/snapshot")
    record = read(answer.content, "answer")
    assert [each.name for each in record.snapshot.services.values()] == ["bot"]
    assert record.snapshot.seen.nodes
    assert replay(record) is None


async def test_a_backup_is_taken_while_everything_is_written(yard: Yard, tmp_path: Path) -> None:
    async def write_on() -> int:
        count = 0
        while not stop.is_set():
            await yard.apply({"kind": "project", "name": f"local/p{count}"})
            count += 1
        return count

    stop = asyncio.Event()
    writing = asyncio.create_task(write_on())
    projects = []
    for number in range(3):
        listing = await saved(yard, tmp_path / f"b{number}")
        projects.append(listing.about["kinds"]["project"])
        names = {member.name for member in listing.members}
        assert {"state.db", "admin.key"} <= names
    stop.set()
    assert projects == sorted(projects)
    assert await writing >= projects[-1] - 1
    assert not list(yard.home.backups.glob("taking-*"))
    codes = [e["code"] for e in (await yard.get("event", limit=1000))["items"]]
    assert codes.count("home.backup-begun") == 3
    restored = Home(tmp_path / "restored")
    await asyncio.to_thread(restore.restore, restored, tmp_path / "b2", OWNER, replace=False)
    assert restored.admin_key.read_text() == yard.home.admin_key.read_text()
    async with opened(restored) as again:
        assert len((await again.get("project"))["items"]) == projects[-1]


async def test_one_backup_at_a_time_and_an_abandoned_one_lets_go(yard: Yard) -> None:
    first = yard.desk.backups.take(OWNER)
    await anext(first)
    answer = await yard.client.post("/api/v1/backup")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "backup.busy")
    await first.aclose()
    assert (await yard.client.post("/api/v1/backup")).status_code == 200


async def test_a_backup_that_cannot_be_written_down_is_refused(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object, **__: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(yard.desk.world.store, "commit", full)
    answer = await yard.client.post("/api/v1/backup")
    assert answer.status_code >= 500
    assert answer.content[:8] != archive.MAGIC[:8]


async def test_doctor_reads_a_model_file_whose_times_alone_tell_too_little(yard: Yard) -> None:
    await yard.add_model()
    source, backup = yard.home.path / "tiny.json", yard.home.path / "linked.json"
    before, content = source.stat(), source.read_bytes()
    while source.stat().st_ctime_ns == before.st_ctime_ns:  # the clock of a disk may be coarse
        backup.unlink(missing_ok=True)
        backup.hardlink_to(source)
    assert await found(yard, "blob.") == []
    linked = source.stat()
    source.write_bytes(content[::-1])
    while source.stat().st_ctime_ns == linked.st_ctime_ns:
        source.touch()
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    (told,) = await found(yard, "blob.")
    assert (told["code"], told["subject"]) == ("blob.changed", "model/tiny@1")


async def test_doctor_knows_when_a_backup_was_last_good(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [f["ok"] for f in await found(yard, "doctor.backup")] == [True]
    now, later = yard.desk.world.clock.now(), [0.0]
    monkeypatch.setattr(yard.desk.world.clock, "now", lambda: now + later[0], raising=False)
    later[0] = BACKUP_AGE_S + 1
    assert [(f["code"], f["ok"]) for f in await found(yard, "doctor.backup")] == [
        ("doctor.backup-old", False)
    ]
    await yard.post("backup/outcome", {"what": "backed-up", "sha256": "a" * 64, "bytes": 7})
    assert [f["ok"] for f in await found(yard, "doctor.drill-old")] == [False]
    await yard.post("backup/outcome", {"what": "drilled", "seconds": 1.5})
    assert [f["code"] for f in await found(yard, "doctor.backup")] == ["doctor.backup-fresh"]
    await yard.post("backup/outcome", {"what": "drill-failed", "cause": "backup.damaged"})
    later[0] *= 2.1
    assert [f["ok"] for f in await found(yard, "doctor.backup-old")] == [False]
    codes = [e["code"] for e in (await yard.get("event", limit=1000))["items"]]
    assert codes[-3:] == ["home.backed-up", "home.drilled", "home.drill-failed"]


async def test_how_old_a_backup_may_be_is_a_setting(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = yard.desk.world.clock.now()
    monkeypatch.setattr(yard.desk.backups, "age_s", backup_age_s({"MADANG_BACKUP_AGE": "12h"}))
    for what in ("backed-up", "drilled"):
        await yard.post("backup/outcome", {"what": what})
    monkeypatch.setattr(yard.desk.world.clock, "now", lambda: now + 11 * 3600, raising=False)
    assert [f["ok"] for f in await found(yard, "doctor.backup")] == [True]
    monkeypatch.setattr(yard.desk.world.clock, "now", lambda: now + 13 * 3600, raising=False)
    (old,) = await found(yard, "doctor.backup")
    assert (old["code"], old["values"]) == ("doctor.backup-old", {"limit": 0.5})
    for wrong in ("7", "0d", "1w", "-1h", "12345d"):
        with pytest.raises(Rejected):
            backup_age_s({"MADANG_BACKUP_AGE": wrong})


async def declared(yard: Yard) -> list[dict[str, Any]]:
    items = (await yard.get("declared"))["items"]
    return sorted((item["document"] for item in items), key=lambda d: (d["kind"], d["name"]))


async def test_what_was_declared_can_be_declared_again_elsewhere(tmp_path: Path) -> None:
    script = tmp_path / "라마.json"
    script.write_text(json.dumps({"fake": 1}))
    model = {"kind": "model", "name": "라마", "project": "서울시/민원", "source": str(script)}
    async with opened(Home(tmp_path / "one")) as one:
        await one.apply(*HANGUL, model)
        first = await declared(one)
        specs = {
            (kind, r["project"], r["name"]): r["spec"]
            for kind in ("organization", "project", "user", "service", "model")
            for r in (await one.get(kind))["items"]
        }
    by_name = {(d["kind"], d["name"]): d for d in first}
    assert by_name["service", "plain"] == {
        "kind": "service", "name": "plain", "project": "서울시/민원", "model": "라마",
    }  # fmt: skip
    assert list(by_name["user", "서울시/김"]["roles"]) == ["서울시", "서울시/민원"]
    async with opened(Home(tmp_path / "two")) as two:
        await two.apply(*first)
        assert await declared(two) == first
        again = {
            (kind, r["project"], r["name"]): r["spec"]
            for kind in ("organization", "project", "user", "service", "model")
            for r in (await two.get(kind))["items"]
        }
        assert again == specs
        changes = (await two.apply(*first))["changes"]
        assert {change["what"] for change in changes} == {"unchanged"}


async def test_a_refusal_says_which_document_it_is_about(yard: Yard) -> None:
    good = {"kind": "project", "name": "local/a"}
    for bad, code in (
        ("text", "manifest.not-an-object"),
        ({"kind": "servis"}, "manifest.unknown-kind"),
        ({"kind": "service", "name": "x", "model": "m", "scal": 1}, "manifest.unknown-key"),
        (good, "manifest.twice"),
        ({"kind": "model", "name": "m", "source": "/no/where"}, "model.source-unreadable"),
    ):
        error = (await yard.apply(good, bad, status=400))["error"]
        assert (error["code"], error["values"]["document"]) == (code, 2)
    assert len((await yard.get("project"))["items"]) == 1


async def test_a_service_that_is_being_deleted_is_no_longer_declared(yard: Yard) -> None:
    await yard.add_model()
    await yard.apply({"kind": "service", "name": "bot", "model": "tiny"})
    await yard.until("service", "bot", "ready")
    yard.node.reachable = False
    answer: httpx.Response = await yard.client.delete("/api/v1/service/bot")
    assert answer.is_success
    assert [d["kind"] for d in await declared(yard)] == [
        "model", "organization", "pool", "project", "site"
    ]  # fmt: skip
