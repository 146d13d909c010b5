"""The audit records of a running control: vouched for soon, or nothing privileged is done."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

from madang.governance.chain import verify
from madang.governance.heads import SEED_BYTES, HeadsFile, Signer
from madang.resources.event import AuditRecord
from madang.settings import Home, audit_heads

from .conftest import Yard, opened

SIGNER = Signer(b"k" * SEED_BYTES)


def proof(records: list[AuditRecord], home: Home, store: str):
    return verify(records, list(HeadsFile(audit_heads(home, {})).all()), store, [SIGNER.key])


async def test_what_people_do_is_on_record_and_vouched_for(yard: Yard) -> None:
    await yard.add_model()
    await yard.apply({"kind": "service", "name": "bot", "model": "tiny"})
    await yard.apply({"kind": "service", "name": "bot", "model": "tiny", "scale": 2})
    made = await yard.post("key", {"name": "app"})
    await yard.client.delete("/api/v1/key/app")
    await yard.until("service", "bot", "ready")
    page = await yard.get("audit")
    told = [(r["actor"], r["code"]) for r in page["items"] if r["actor"] != "control"]
    assert [each for each in told if each[0] != "gate"] == [
        ("key/admin", "model.imported"), ("key/admin", "service.created"),
        ("key/admin", "service.updated"), ("key/admin", "key.created"),
        ("key/admin", "key.deleted"),
    ]  # fmt: skip
    assert ("gate", "build.passed") in told
    change = next(r for r in page["items"] if r["code"] == "service.updated")
    assert (change["before"]["spec"]["scale"], change["after"]["spec"]["scale"]) == (1, 2)
    assert made["key"] not in str(page)
    key = next(r for r in page["items"] if r["code"] == "key.created" and r["name"] == "app")
    assert "digest" not in key["after"]["spec"]
    await yard.desk.notary.vouch()
    records = [AuditRecord.model_validate(r) for r in page["items"]]
    assert proof(records, yard.home, page["store"]).holds


async def test_a_privileged_act_that_can_not_be_vouched_for_is_refused(yard: Yard) -> None:
    place = audit_heads(yard.home, {})
    async with asyncio.timeout(20):
        while not place.exists():
            await yard.desk.world.moved(yard.desk.world.tick, 0.1)
    place.unlink()
    place.mkdir()
    await yard.add_model()
    async with asyncio.timeout(20):
        while yard.desk.notary.fault is None:
            await yard.desk.world.moved(yard.desk.world.tick, 0.1)
    refused = await yard.post("key", {"name": "app"}, 503)
    assert refused["error"]["code"] == "audit.refused"
    assert (await yard.client.post("/api/v1/backup")).status_code == 503
    organization = {"kind": "organization", "name": "acme"}
    assert (await yard.apply(organization, status=503))["error"]["code"] == "audit.refused"
    await yard.apply({"kind": "service", "name": "bot", "model": "tiny"})
    await yard.until("service", "bot", "ready")
    findings = {f["code"] for f in (await yard.get("doctor"))["items"] if not f["ok"]}
    assert "doctor.audit-unvouched" in findings
    place.rmdir()
    async with asyncio.timeout(20):
        while yard.desk.notary.fault is not None:
            await yard.desk.world.moved(yard.desk.world.tick, 0.1)
    await yard.post("key", {"name": "app"})


async def test_a_state_that_was_put_back_is_noticed_at_the_next_start(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.path.mkdir()
    async with opened(home) as yard:
        await yard.desk.notary.vouch()
    old = home.state.read_bytes()
    async with opened(home) as yard:
        await yard.post("key", {"name": "app"})
        await yard.desk.notary.vouch()
    home.state.write_bytes(old)
    async with opened(home) as yard:
        await yard.desk.notary.vouch()
        page = await yard.get("audit")
        findings = {f["code"] for f in (await yard.get("doctor"))["items"] if not f["ok"]}
    assert "doctor.audit-torn" in findings
    records = [AuditRecord.model_validate(r) for r in page["items"]]
    assert not proof(records, home, page["store"]).holds


async def test_an_edit_of_the_file_is_noticed_by_the_proof(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.path.mkdir()
    async with opened(home) as yard:
        await yard.post("key", {"name": "app"})
        await yard.desk.notary.vouch()
    raw = sqlite3.connect(home.state)
    raw.execute("UPDATE audit SET actor = 'key/somebody' WHERE seq = 1")
    raw.commit()
    raw.close()
    async with opened(home) as yard:
        page = await yard.get("audit")
    records = [AuditRecord.model_validate(r) for r in page["items"]]
    assert {f.code for f in proof(records, home, page["store"]).faults} == {"audit.changed"}
