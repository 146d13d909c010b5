"""Control as a user of its API meets it."""

from __future__ import annotations

import asyncio
import errno
import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.routing import Mount

from madang.api.app import check_guarded
from madang.errors import Rejected
from madang.planning.plan import plan
from madang.resources.rights import CONTROL
from madang.settings import Home
from madang.testing.node import PaperNode
from madang.traffic.table import Pull

from .conftest import PROJECT, Yard, opened

BOT = {"kind": "service", "name": "bot", "model": "tiny"}


async def test_a_service_comes_up_and_goes_away(yard: Yard) -> None:
    await yard.add_model()
    told = await yard.apply(BOT)
    assert [c["what"] for c in told["changes"]] == ["create"]
    assert [f["verb"] for f in told["follows"]] == ["replica.started"]
    service = await yard.until("service", "bot", "ready")
    assert service["status"]["ready"] == 1
    replica = (await yard.get("replica"))["items"][0]
    assert replica["status"]["pid"] == 1
    assert (await yard.client.delete("/api/v1/service/bot")).status_code == 200
    await yard.until_gone("service", "bot")
    assert yard.node.processes == {}
    assert (await yard.get("endpoint"))["items"] == []


async def test_a_dry_run_tells_the_same_and_changes_nothing(yard: Yard) -> None:
    await yard.add_model()
    revision = yard.desk.world.revision
    told = await yard.apply(BOT, dry_run=True)
    assert yard.desk.world.revision == revision
    assert told == await yard.apply(BOT)


async def test_applying_the_same_again_changes_nothing(yard: Yard) -> None:
    await yard.add_model()
    await yard.apply(BOT)
    assert (await yard.apply(BOT))["changes"][0]["what"] == "unchanged"
    told = await yard.apply({**BOT, "scale": 2})
    assert told["changes"][0]["fields"] == ["scale: 1 -> 2"]


async def test_one_bad_document_keeps_all_out(yard: Yard) -> None:
    answer = await yard.apply(BOT, {**BOT, "name": "b2", "scal": 2}, status=400)
    assert answer["error"]["code"] == "manifest.unknown-key"
    assert answer["error"]["values"]["nearest"] == "scale"
    assert (await yard.get("service"))["items"] == []


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"scale": "4..0"}, "manifest.value"),
        ({"scale": "few..many"}, "manifest.value"),
        ({"scale": {"min": 0}}, "manifest.missing-key"),
        ({"scale": {"max": 2, "idel": "5m"}}, "manifest.unknown-key"),
        ({"rollout": {"canary": "10%"}}, "manifest.not-yet"),
        ({"variants": [{"accelerator": "cpu", "recipe": "gone"}, {}]}, "manifest.missing-key"),
        ({"variants": [{"accelerator": "cpu"}] * 9}, "manifest.value"),
        ({"gate": ["ko-civil-qa >= 0.82"]}, "manifest.not-yet"),
        ({"model": "hf://a/b"}, "manifest.not-yet"),
        ({"model": "tiny@x"}, "manifest.value"),
        ({"model": "tiny@7"}, "model.no-such-version"),
        ({"scale": -1}, "manifest.value"),
        ({"needs": {"memory": "lots"}}, "manifest.value"),
        ({"name": "../etc"}, "manifest.value"),
        ({"name": "a" * 64}, "manifest.value"),
        ({"kind": "servce"}, "manifest.unknown-kind"),
        ({"project": "nowhere/at-all"}, "project.missing"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(yard: Yard, changed: dict, code: str) -> None:
    await yard.add_model()
    answer = await yard.client.post("/api/v1/apply", json={"documents": [{**BOT, **changed}]})
    assert answer.status_code in {400, 404}
    assert answer.json()["error"]["code"] == code


async def test_a_failing_gate_is_told_with_its_check(yard: Yard) -> None:
    yard.verdict[0] = False
    await yard.add_model()
    await yard.apply(BOT)
    await yard.until("service", "bot", "failed")
    told = await yard.get("service/bot/explanation")
    assert told["reason"]["code"] == "gate.failed"
    assert told["reason"]["values"]["check"] == "smoke.answers"
    assert told["because"][0]["smallest_fix"]["code"] == "gate.fix-change"
    build = (await yard.get("build"))["items"][0]["name"]
    yard.verdict[0] = True
    assert (await yard.client.delete(f"/api/v1/build/{build}")).status_code == 200
    await yard.until("service", "bot", "ready")


async def test_a_start_that_the_node_refuses_is_told_as_the_cause(yard: Yard) -> None:
    yard.node.refuses = Rejected("supervisor.spawn-failed", "x", program="engine", cause="ENOENT")
    await yard.add_model()
    await yard.apply(BOT)
    await yard.until("replica", "bot-1-1", "backing-off")
    told = await yard.get("service/bot/explanation")
    assert told["reason"]["code"] == "supervisor.spawn-failed"
    yard.node.refuses = None
    await yard.until("service", "bot", "ready")


async def test_control_comes_back_to_its_replicas_without_touching_them(tmp_path: Path) -> None:
    node = PaperNode()
    async with opened(Home(tmp_path), node) as yard:
        await yard.add_model()
        await yard.apply({**BOT, "scale": 3})
        await yard.until("service", "bot", "ready")
        plans = dict(node.plans)
        term = yard.desk.world.term
    async with opened(Home(tmp_path), node) as yard:
        assert yard.desk.world.term == term + 1
        await asyncio.sleep(0)
        await yard.until("service", "bot", "ready")
        for _ in range(3):
            yard.node.move()
            await yard.desk.world.moved(yard.desk.world.tick, 0.2)
        assert node.plans == plans, "nothing was started again"


async def test_a_second_control_on_the_same_home_is_refused(yard: Yard) -> None:
    with pytest.raises(Exception, match=r"store\.held"):
        async with opened(yard.home):
            pass


async def test_only_health_and_documentation_answer_without_a_key(yard: Yard) -> None:
    open_paths = {"/healthz", "/readyz", "/openapi.json", "/docs"}
    async with httpx.AsyncClient(
        transport=yard.client._transport, base_url="http://api"
    ) as stranger:
        schema = (await stranger.get("/openapi.json")).json()
        for path in {*schema["paths"], *open_paths}:
            concrete = path.replace("{kind}", "service").replace("{name}", "bot")
            verbs = {v.upper() for v in schema["paths"].get(path, {"get": {}})}
            for verb in verbs:
                status = (await stranger.request(verb, concrete, json={})).status_code
                assert (status == 200) if path in open_paths else (status == 401), (verb, path)


async def test_the_documentation_needs_nothing_from_elsewhere(yard: Yard) -> None:
    page = (await yard.client.get("/docs")).text
    assert "//cdn" not in page
    assert "https://" not in page
    script = await yard.client.get("/docs/assets/swagger-ui-bundle.js")
    assert script.status_code == 200


async def test_a_member_lives_in_its_own_project_only(yard: Yard) -> None:
    await yard.add_model()
    await yard.apply(
        {"kind": "organization", "name": "acme"}, {"kind": "project", "name": "acme/lab"}
    )
    await yard.apply(BOT)
    made = await yard.post("key", {"name": "dev", "project": "acme/lab"})
    headers = {"Authorization": f"Bearer {made['key']}"}
    async with httpx.AsyncClient(
        transport=yard.client._transport, base_url="http://api", headers=headers
    ) as member:
        assert (await member.get("/api/v1/whoami")).json() == {
            "actor": "key/dev", "role": "member", "project": "acme/lab", "where": "acme/lab",
            "rights": ["infer", "keys", "read", "write"], "user": "",
        }  # fmt: skip
        assert (await member.get("/api/v1/service")).json()["items"] == []
        other = await member.get("/api/v1/service/bot", params={"project": PROJECT})
        absent = await member.get("/api/v1/service/nix", params={"project": PROJECT})
        assert other.status_code == absent.status_code == 404
        assert other.json()["error"]["code"] == absent.json()["error"]["code"]
        foreign = {"documents": [BOT], "project": PROJECT}
        assert (await member.post("/api/v1/apply", json=foreign)).status_code == 404
        above = {"name": "boss", "role": "operator"}
        assert (await member.post("/api/v1/key", json=above)).status_code == 403
        assert (await member.get("/api/v1/doctor")).status_code == 403
        assert (
            await yard.client.delete("/api/v1/key/dev", params={"project": "acme/lab"})
        ).is_success
        assert (await member.get("/api/v1/whoami")).status_code == 401


async def test_the_digest_of_a_key_is_never_shown(yard: Yard) -> None:
    made = await yard.post("key", {"name": "dev"})
    assert "digest" not in made["resource"]["spec"]
    listed = (await yard.client.get("/api/v1/key")).text
    feed = (await yard.client.get("/api/v1/changes", params={"after": 0})).text
    for shown in (listed, feed):
        assert made["key"] not in shown
        assert hashlib.sha256(made["key"].encode()).hexdigest() not in shown


async def test_changes_and_events_can_be_waited_for(yard: Yard) -> None:
    now = (await yard.get("service"))["revision"]
    waiting = asyncio.create_task(yard.get("changes", after=now, wait_s=10, kind="service"))
    telling = asyncio.create_task(yard.get("event", after=10_000, wait_s=0))
    await yard.add_model()
    await yard.apply(BOT)
    changed = await waiting
    assert changed["items"][0]["resource"]["name"] == "bot"
    assert (await telling)["items"] == []
    await yard.until("service", "bot", "ready")
    codes = [event["code"] for event in (await yard.get("event"))["items"]]
    assert codes.index("service.created") < codes.index("replica.started")


async def test_a_used_model_is_kept_and_a_free_one_goes(yard: Yard) -> None:
    await yard.add_model()
    await yard.apply(BOT)
    answer = await yard.client.delete("/api/v1/model/tiny")
    assert answer.status_code == 409
    assert answer.json()["error"]["values"]["by"] == "service/bot"
    await yard.client.delete("/api/v1/service/bot")
    await yard.until_gone("service", "bot")
    assert (await yard.client.delete("/api/v1/model/tiny")).status_code == 200


async def test_an_import_that_fails_says_why_on_its_last_line(yard: Yard) -> None:
    body = {"name": "bad", "source": "/no/such/file.gguf"}
    answer = await yard.client.post("/api/v1/model", json=body)
    assert '"error"' in answer.text.splitlines()[-1]
    assert (await yard.client.get("/api/v1/model/bad")).status_code == 404


async def test_a_changed_model_makes_a_new_version_and_old_services_keep_theirs(yard: Yard) -> None:
    await yard.add_model()
    await yard.apply(BOT)
    await yard.until("service", "bot", "ready")
    told = await yard.add_model(words="other words")
    assert [v["number"] for v in told["resource"]["status"]["versions"]] == [1, 2]
    assert (await yard.get("service/bot"))["status"]["revision"] == "bot-1"
    await yard.apply({**BOT, "model": "tiny@2"})
    async with asyncio.timeout(20):
        while (await yard.get("service/bot"))["status"]["revision"] != "bot-2":
            await yard.desk.world.moved(yard.desk.world.tick, 0.5)


async def test_status_and_doctor_show_everything_at_a_glance(yard: Yard) -> None:
    await yard.add_model()
    await yard.apply(BOT)
    await yard.until("service", "bot", "ready")
    status = await yard.get("status")
    assert status["services"][0]["phase"] == "ready"
    assert status["nodes"][0]["accelerators"] == 1
    findings = {f["code"]: f["ok"] for f in (await yard.get("doctor"))["items"]}
    assert findings["doctor.service-ready"]
    assert findings["doctor.no-gateway"] is False, "nobody has pulled a table here"


async def test_doctor_tells_which_gateway_has_lost_usage_and_whose_disk_takes_none(
    yard: Yard,
) -> None:
    async def unwell() -> list[tuple[str, str, object]]:
        found = (await yard.get("doctor"))["items"]
        told = [each for each in found if each["code"].startswith("doctor.usage-")]
        return [(each["code"], each["subject"], each["values"]) for each in told]

    pull = yard.desk.gateways.pull
    await pull(Pull("gw-1", 0, wait_s=0))
    await pull(Pull("gw-2", 0, wait_s=0, lost=3))
    await pull(Pull("gw-3", 0, wait_s=0, unwritten="No space left on device"))
    assert await unwell() == [
        ("doctor.usage-lost", "gw-2", {"count": 3}),
        ("doctor.usage-unwritten", "gw-3", {"cause": "No space left on device"}),
    ]
    await pull(Pull("gw-3", 0, wait_s=0))
    await pull(Pull("gw-2", 0, wait_s=0))
    assert await unwell() == []


async def test_logs_come_from_the_node(yard: Yard) -> None:
    await yard.add_model()
    await yard.apply(BOT)
    await yard.until("service", "bot", "ready")
    told = await yard.get("service/bot/logs", lines=2)
    assert len(told["items"][0]["lines"]) == 2


async def test_a_turn_that_fails_ends_neither_the_loop_nor_the_api(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    from madang.control import loop

    real, failures = loop.plan, iter(range(2))

    def failing(*arguments: Any) -> Any:
        if next(failures, None) is not None:
            raise ValueError("a rule of planning is wrong")
        return real(*arguments)

    monkeypatch.setattr(loop, "plan", failing)
    await yard.add_model()
    await yard.apply(BOT)
    await yard.until("service", "bot", "ready")


async def test_a_client_that_hangs_up_leaves_the_world_as_the_store_has_it(yard: Yard) -> None:
    world = yard.desk.world
    for number in range(30):
        work = asyncio.create_task(yard.apply({"kind": "organization", "name": f"o{number}"}))
        await asyncio.sleep(0.001 * (number % 6))
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
    await asyncio.gather(*world._commits, return_exceptions=True)
    stored = {
        r.ref for r, gone in await world.store.changes(CONTROL, 0) if r.kind == "organization"
    }
    assert stored == set(world.list(CONTROL, "organization"))


@pytest.mark.parametrize("name", ["b" * 41, "가" * 14])
async def test_a_service_name_leaves_room_for_its_replicas_names(yard: Yard, name: str) -> None:
    answer = await yard.apply({**BOT, "name": name}, status=400)
    assert answer["error"]["code"] == "manifest.value"


async def test_a_revoked_admin_key_stays_revoked_while_another_operator_is_there(
    tmp_path: Path,
) -> None:
    home = Home(tmp_path)
    async with opened(home) as yard:
        await yard.post("key", {"name": "boss", "role": "operator"})
        assert (await yard.client.delete("/api/v1/key/admin")).is_success
        assert (await yard.client.get("/api/v1/whoami")).status_code == 401
    async with opened(home) as yard:
        assert (await yard.client.get("/api/v1/whoami")).status_code == 401


async def test_the_owner_of_a_home_is_never_locked_out_of_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    async with opened(home) as yard:
        first = home.admin_key.read_text()
        assert (await yard.client.delete("/api/v1/key/admin")).is_success
    async with opened(home) as yard:
        assert home.admin_key.read_text() != first, "the revoked secret does not come back"
        assert (await yard.get("whoami"))["role"] == "operator"
    home.admin_key.unlink()
    async with opened(home) as yard:
        assert (await yard.get("whoami"))["role"] == "operator"
    home.admin_key.write_text("cut sho")
    async with opened(home) as yard:
        assert (await yard.get("whoami"))["role"] == "operator"


async def test_a_key_that_opens_nothing_locks_the_owner_of_a_home_out_of_nothing(
    tmp_path: Path,
) -> None:
    home = Home(tmp_path)
    async with opened(home) as yard:
        await yard.apply({"kind": "user", "name": "local/kim", "roles": {"site": "operator"}})
        await yard.post("key", {"name": "boss", "role": "operator", "user": "local/kim"})
        await yard.post("key", {"name": "short", "role": "operator", "expires_s": 1e-9})
        await yard.apply({"kind": "user", "name": "local/kim", "roles": {}})
        assert (await yard.client.delete("/api/v1/key/admin")).is_success
    async with opened(home) as yard:
        assert (await yard.get("whoami"))["role"] == "operator"


async def test_an_operators_key_that_is_made_anew_is_on_record(tmp_path: Path) -> None:
    home = Home(tmp_path)
    async with opened(home) as yard:
        before = (await yard.get("audit"))["items"][-1]["seq"]
    home.admin_key.unlink()
    async with opened(home) as yard:
        told = [e["code"] for e in (await yard.get("event"))["items"]]
        records = (await yard.get("audit", after=before))["items"]
    assert told.count("key.updated") == 1
    assert [(r["code"], r["actor"], r["at"] > 0) for r in records] == [
        ("key.updated", "control", True)
    ]


async def test_a_key_that_a_person_calls_admin_is_theirs(tmp_path: Path) -> None:
    """The file still holds the secret of the key that was revoked; that does not come back."""
    home = Home(tmp_path)
    async with opened(home) as yard:
        boss = await yard.post("key", {"name": "boss", "role": "operator"})
        assert (await yard.client.delete("/api/v1/key/admin")).is_success
        yard.client.headers["Authorization"] = f"Bearer {boss['key']}"
        theirs = await yard.post("key", {"name": "admin", "role": "viewer"})
    async with opened(home) as yard:
        assert (await yard.client.get("/api/v1/whoami")).status_code == 401
        yard.client.headers["Authorization"] = f"Bearer {theirs['key']}"
        assert (await yard.get("whoami"))["role"] == "viewer"


async def test_who_may_not_add_a_model_is_told_by_status(yard: Yard) -> None:
    made = await yard.post("key", {"name": "dev"})
    answer = await yard.client.post(
        "/api/v1/model", json={"name": "m", "source": "/x"},
        headers={"Authorization": f"Bearer {made['key']}"},
    )  # fmt: skip
    assert answer.status_code == 403


async def test_a_damaged_record_of_a_model_is_told_as_the_cause(yard: Yard) -> None:
    await yard.add_model()
    for record in yard.home.blobs.iterdir():
        record.write_text("garbage")
    await yard.apply(BOT)
    await yard.until("replica", "bot-1-1", "backing-off")
    assert (await yard.get("service/bot/explanation"))["reason"]["code"] == "blob.record-damaged"


async def test_models_and_services_of_one_apply_come_together_or_not_at_all(yard: Yard) -> None:
    path = yard.home.path / "m.json"
    path.write_text('{"fake": 1}')
    weights = {"kind": "model", "name": "tiny", "source": str(path)}
    await yard.apply(weights, {**BOT, "project": "no/where"}, status=404)
    assert (await yard.get("model"))["items"] == []
    await yard.apply(weights, BOT)
    await yard.until("service", "bot", "ready")


@pytest.mark.parametrize(
    "lack",
    [
        OSError(errno.EMFILE, "Too many open files"),
        MemoryError(),
        RuntimeError("can't start new thread"),
    ],
    ids=["files", "memory", "threads"],
)
async def test_our_own_lack_is_503_with_its_name_and_passes(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, lack: Exception
) -> None:
    def refuse(*_: object) -> None:
        raise lack

    with monkeypatch.context() as patched:
        patched.setattr("madang.api.routes.report", refuse)
        error = (await yard.get("status", status=503))["error"]
    assert error["code"] == "control.short"
    assert error["hint"]
    await yard.get("status")


async def test_a_turn_without_memory_is_told_and_the_next_one_does_its_work(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failed = 0

    def starved(*given: Any) -> Any:
        nonlocal failed
        failed += 1
        if failed <= 2:
            raise MemoryError
        return plan(*given)

    monkeypatch.setattr("madang.control.loop.plan", starved)
    await yard.add_model()
    await yard.apply(BOT)
    await yard.until("service", "bot", "ready")
    assert failed > 2
    assert "MemoryError" in caplog.text


async def test_a_route_that_does_not_say_what_it_needs_ends_the_start() -> None:
    unguarded = APIRouter()

    @unguarded.get("/api/v1/open-door")
    async def open_door() -> None:
        """Ask nobody for anything."""

    for route in [*unguarded.routes, Mount("/other", FastAPI())]:
        app = FastAPI()
        app.router.routes.append(route)
        with pytest.raises(AssertionError, match="does not say what it needs"):
            check_guarded(app)
