"""A real gateway process: what it loads, when it starts, how it ends, what it survives."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import socket
import stat
import subprocess
import sys

import httpx
import msgspec
import pytest

from madang.ending import heard
from madang.errors import Unavailable
from madang.gateway.journal import segments_in
from madang.gateway.listening import Place, listen


def test_the_process_loads_nothing_heavy():
    heavy = {"pydantic", "fastapi", "sqlalchemy", "numpy", "starlette", "rich"}
    code = "import sys, madang.gateway.process as p; print(*sys.modules); print(p.__file__)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    loaded = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    assert not heavy & set(loaded.stdout.decode().split())


async def test_it_serves_the_table_on_disk_while_control_is_down(start_gateway, table, engines):
    engine = await engines.start()
    gateway = start_gateway(table(engine.target, version=9))
    response = await gateway.ask()
    assert response.status_code == 200
    assert response.headers["x-madang-table"] == "9"
    unknown = await gateway.ask(key="made-since")
    assert unknown.status_code == 503
    assert gateway.log.count("control does not answer") == 1


async def test_a_new_table_is_on_disk_when_it_is_served(
    start_gateway, control, table, engines, home, eventually
):
    engine = await engines.start()
    await control.start()
    control.table = table(engine.target, version=3)
    gateway = start_gateway()
    await eventually(lambda: any(pull["serving"] == 3 for pull in control.pulls))
    file = home.gateway / "table.json"
    assert msgspec.json.decode(file.read_bytes())["version"] == 3
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (await gateway.ask()).headers["x-madang-table"] == "3"
    assert (await gateway.ask(key="nobody")).status_code == 401


def test_it_does_not_begin_on_a_table_of_a_newer_version(home):
    home.gateway.mkdir(parents=True)
    home.table.write_text('{"form": 9}')
    argv = [sys.executable, "-m", "madang.gateway", str(home.path), "--port", "0"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=50, check=False)
    (error,) = heard(done.stderr)
    assert (done.returncode, error.code, error.subject) == (70, "file.newer", str(home.table))
    assert home.table.read_text() == '{"form": 9}'


async def test_control_is_told_that_the_disk_takes_no_records(
    start_gateway, control, table, engines, eventually
):
    engine = await engines.start()
    await control.start()
    control.table = table(engine.target, version=3)
    gateway = start_gateway()
    await eventually(lambda: any(pull["serving"] == 3 for pull in control.pulls))
    assert control.pulls[-1]["unwritten"] == ""
    resource.prlimit(gateway.popen.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    assert (await gateway.ask()).status_code == 200
    await eventually(lambda: control.pulls[-1]["unwritten"] == os.strerror(errno.EFBIG))
    assert control.pulls[-1]["lost"] == 0, "it waits in memory"


async def test_an_older_table_is_ignored(start_gateway, control, table, eventually):
    await control.start()
    control.table = table(version=5)
    gateway = start_gateway()
    await eventually(lambda: control.pulls and control.pulls[-1]["serving"] == 5)
    control.table = table(version=4)
    seen = len(control.pulls)
    await eventually(lambda: len(control.pulls) > seen + 2)
    assert {pull["serving"] for pull in control.pulls[seen:]} == {5}
    assert (await gateway.health()).json()["table"] == 5


async def test_it_outlives_control_and_finds_it_again(
    start_gateway, control, table, engines, eventually
):
    engine = await engines.start()
    await control.start()
    control.table = table(engine.target, version=1)
    gateway = start_gateway()
    await eventually(lambda: any(pull["serving"] == 1 for pull in control.pulls))
    await control.stop()
    await eventually(lambda: "control does not answer" in gateway.log)
    assert (await gateway.ask()).status_code == 200
    control.table = table(engine.target, version=2)
    await control.start()
    await eventually(lambda: any(pull["serving"] == 2 for pull in control.pulls))
    assert gateway.log.count("control answers") == 2


def of_an_earlier_version():
    """A table from when an endpoint's waiting was a sentence."""
    endpoint = {"project": "p", "name": "bot", "model": "bot", "targets": []}
    endpoint |= {"context_tokens": 1, "waiting": "service.starting"}
    return msgspec.json.encode({"version": 1, "endpoints": [endpoint], "keys": {}})


@pytest.mark.parametrize("table", [b'{"version": 1, "endp', of_an_earlier_version()])
async def test_a_table_that_cannot_be_read_is_set_aside_and_named(start_gateway, home, table):
    home.gateway.mkdir(parents=True)
    (home.gateway / "table.json").write_bytes(table)
    gateway = start_gateway()
    assert (await gateway.health()).status_code == 503
    assert (home.gateway / "table.corrupt").exists()
    assert "table.corrupt" in gateway.log


async def test_sigterm_lets_a_stream_finish_and_ends_well(
    start_gateway, control, table, engines, eventually
):
    engine = await engines.start()
    await control.start()
    control.table = table(engine.target)
    gateway = start_gateway()
    await eventually(lambda: any(pull["serving"] == 1 for pull in control.pulls))
    go = asyncio.Event()
    answer = engine.answer

    async def wait(request, body):
        await go.wait()
        return await answer(request, body)

    engine.behave = wait
    asking = asyncio.create_task(gateway.ask(stream=True))
    await eventually(lambda: engine.running)
    gateway.popen.send_signal(signal.SIGTERM)
    await eventually(lambda: not _accepts(gateway.url))
    go.set()
    assert (await asking).text.endswith("data: [DONE]\n\n")
    assert await gateway.ended() == 0
    assert [each["status"] for each in control.taken] == [200]
    assert "Traceback" not in gateway.log


def _accepts(url):
    try:
        return httpx.get(f"{url}/healthz").status_code
    except httpx.TransportError:
        return False


async def test_two_gateways_do_not_share_a_home(start_gateway, home):
    start_gateway()
    argv = [sys.executable, "-m", "madang.gateway", str(home.path), "--port", "0"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    second = await asyncio.to_thread(subprocess.run, argv, env=env, capture_output=True)
    assert second.returncode == 75
    assert b"gateway.running" in second.stderr


def test_a_port_that_is_taken_is_said_to_be():
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(Unavailable, match=r"gateway\.port"),
    ):
        listen(Place("127.0.0.1", taken.getsockname()[1]))


async def test_usage_reaches_control_once_it_is_back(
    start_gateway, control, table, engines, eventually
):
    engine = await engines.start()
    gateway = start_gateway(table(engine.target))
    sent = {(await gateway.ask()).headers["x-request-id"] for _ in range(5)}
    await eventually(lambda: gateway.waiting == sent)
    await control.start()
    await eventually(lambda: len(control.taken) == 5)
    assert {each["id"] for each in control.taken} == sent
    gateway.popen.send_signal(signal.SIGTERM)
    assert await gateway.ended() == 0
    assert segments_in(gateway.home.gateway) == []


async def test_usage_survives_kill_9_of_the_gateway(
    start_gateway, control, table, engines, eventually
):
    engine = await engines.start()
    sent = set()
    for _ in range(3):
        gateway = start_gateway(table(engine.target))
        sent |= {(await gateway.ask()).headers["x-request-id"] for _ in range(7)}
        await eventually(lambda g=gateway, s=sent: g.waiting == s)
        gateway.popen.kill()
        await gateway.ended()
        with segments_in(gateway.home.gateway)[-1].open("ab") as torn:
            torn.write(b'{"id": "req-torn", "at": 1')
    await control.start()
    start_gateway()
    await eventually(lambda: len(control.taken) >= 21)
    assert sorted(each["id"] for each in control.taken) == sorted(sent)


async def test_usage_that_control_refuses_is_kept(
    start_gateway, control, table, engines, eventually
):
    engine = await engines.start()
    await control.start()
    control.usage_status = 500
    gateway = start_gateway(table(engine.target))
    await gateway.ask()
    await eventually(lambda: "did not take 1 usage records" in gateway.log)
    control.usage_status = 200
    await eventually(lambda: len(control.taken) == 1)
