"""The gateway's certificate: what is served with it, and what happens when its files change."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from tests.certificates import Files

from madang.clocks import SystemClock
from madang.ending import heard
from madang.errors import Unavailable
from madang.gateway import entrance as entrances
from madang.gateway.entrance import Entrance
from madang.gateway.tls import Shown, load
from madang.threads import Lacks

from .conftest import KEY, chat

SERVED = "/v1/chat/completions"
CHANGES = [("ec", "ec"), ("ec", "rsa"), ("rsa", "ec"), ("rsa", "rsa")]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Where the certificate and its key are; nothing yet."""
    return Files(tmp_path)


@pytest.fixture
def start(start_gateway, home, files: Files) -> Any:
    """Start a gateway process that shows these files."""

    def begin(on_disk=None):
        home.path.mkdir(parents=True, exist_ok=True)
        home.tls.write_text(f"{files.cert}\n{files.key}\n")
        return start_gateway(on_disk)

    return begin


def any_client(**fields: Any) -> ssl.SSLContext:
    """A client that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for name, value in fields.items():
        setattr(context, name, value)
    return context


def call(url: str, name: str | None = None, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
    """Connect, with a server's name or without one."""
    to = urlsplit(url)
    line = socket.create_connection((to.hostname, to.port), timeout=20)
    return (context or any_client()).wrap_socket(line, server_hostname=name)


def name_of(line: ssl.SSLSocket) -> str:
    """What the other end is called."""
    host, port = line.getpeername()
    return f"{host}:{port}"


def seen(url: str, name: str | None = None) -> bytes | None:
    """The certificate that is shown now."""
    with call(url, name) as line:
        return line.getpeercert(binary_form=True)


def answered(line: ssl.SSLSocket) -> bytes:
    """Ask for the health on an open connection."""
    line.sendall(f"GET /healthz HTTP/1.1\r\nHost: {name_of(line)}\r\n\r\n".encode())
    return line.recv(65536)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3],
                         ids=["1.2", "1.3"])  # fmt: skip
@pytest.mark.parametrize("kind", ["ec", "rsa"])
async def test_a_client_that_trusts_the_certificate_is_served(
    start, files, table, engines, kind, version
):
    engine = await engines.start()
    files.put(kind)
    gateway = start(table(engine.target))
    assert gateway.url.startswith("https://127.0.0.1:")
    trusting = ssl.create_default_context(cafile=files.cert)
    trusting.minimum_version = trusting.maximum_version = version
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(verify=trusting, headers=headers, timeout=20) as client:
        whole = await client.post(gateway.url + SERVED, json=chat())
        assert whole.json()["choices"][0]["message"]["content"] == "one two three"
        stream = await client.post(gateway.url + SERVED, json=chat(stream=True))
        assert stream.text.endswith("data: [DONE]\n\n")


def test_only_http_1_1_and_tls_since_1_2_are_spoken(start, files, table):
    files.put("ec")
    gateway = start(table())
    both = any_client()
    both.set_alpn_protocols(["h2", "http/1.1"])
    with call(gateway.url, "localhost", both) as line:
        assert line.selected_alpn_protocol() == "http/1.1"
    old = any_client()
    old.set_ciphers("DEFAULT@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        call(gateway.url, "localhost", old)


@pytest.mark.parametrize(("before", "after"), CHANGES, ids=["ec-ec", "ec-rsa", "rsa-ec", "rsa-rsa"])
async def test_files_that_change_are_shown_to_whoever_comes_next(
    start, files, table, eventually, before, after
):
    first = files.put(before)
    gateway = start(table())
    assert seen(gateway.url) == seen(gateway.url, "localhost") == first
    with call(gateway.url) as stays:
        assert b"200 OK" in answered(stays)
        second = files.put(after)
        await eventually(lambda: "certificate reloaded" in gateway.log)
        assert seen(gateway.url) == seen(gateway.url, "localhost") == second
        assert b"200 OK" in answered(stays)
        assert stays.getpeercert(binary_form=True) == first


@pytest.mark.parametrize("damage", ["gone", "empty", "of another key", "half"])
async def test_files_that_are_no_good_leave_the_old_ones_served_and_are_told(
    start, files, table, eventually, damage
):
    first = files.put("ec")
    gateway = start(table())
    kept = files.key.read_text()
    if damage == "gone":
        files.key.unlink()
    elif damage == "of another key":
        files.put("ec")
        files.key.write_text(kept)
    else:
        files.cert.write_text("" if damage == "empty" else files.cert.read_text()[:300])
    await eventually(lambda: "the old one is served" in gateway.log)
    assert seen(gateway.url) == first
    async with httpx.AsyncClient(verify=any_client()) as client:
        assert (await client.get(f"{gateway.url}/healthz")).json()["tls"]["fault"]
        last = files.put("rsa")
        await eventually(lambda: "certificate reloaded" in gateway.log)
        assert not (await client.get(f"{gateway.url}/healthz")).json()["tls"]["fault"]
    assert seen(gateway.url) == last
    assert gateway.log.count("the old one is served") == 1


def test_one_that_is_over_is_served_all_the_same(start, files, table):
    over = files.put("ec", days=-1)
    assert seen(start(table()).url) == over


def test_a_gateway_does_not_begin_with_files_that_are_no_good(home, files):
    files.put("ec")
    files.key.write_text("nothing")
    home.path.mkdir(parents=True)
    home.tls.write_text(f"{files.cert}\n{files.key}\n")
    argv = [sys.executable, "-m", "madang.gateway", str(home.path), "--port", "0"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=50, check=False)
    (error,) = heard(done.stderr)
    assert (error.code, error.subject) == ("gateway.tls-files", str(files.cert))


def test_a_key_with_a_password_is_refused_and_nobody_is_asked(files):
    files.put("ec")
    files.key.write_text(
        "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"
        "DEK-Info: AES-128-CBC,00112233445566778899AABBCCDDEEFF\n\nAAAA\n"
        "-----END EC PRIVATE KEY-----\n"
    )
    with pytest.raises(Unavailable) as refused:
        load(files.cert, files.key)
    assert refused.value.values["cause"] == "the key asks for a password"


def test_a_refusal_is_read_before_the_connection_ends(start, files, table):
    files.put("ec")
    gateway = start(table())
    with call(gateway.url) as line:
        head = f"POST {SERVED} HTTP/1.1\r\nHost: {name_of(line)}\r\nContent-Length: 999999999\r\n"
        line.sendall(f"{head}Authorization: Bearer {KEY}\r\n\r\nbegun".encode())
        told = b"".join(iter(lambda: line.recv(65536), b""))
    assert told.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in told


def test_what_is_no_handshake_is_hung_up_on_in_silence(start, files, table):
    files.put("ec")
    gateway = start(table())
    to = urlsplit(gateway.url)
    with socket.create_connection((to.hostname, to.port), timeout=20) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while plain.recv(4096):
            pass
    assert seen(gateway.url)
    assert "Traceback" not in gateway.log


class Looks:
    """A clock by which something is done before each look at the files, and then time stands."""

    def __init__(self, *before: Callable[[], object]) -> None:
        self._before = list(before)
        self.over = asyncio.Event()

    def now(self) -> float:
        return SystemClock().now()

    async def sleep(self, _: float) -> None:
        if not self._before:
            self.over.set()
            await asyncio.Event().wait()
        self._before.pop(0)()


@asynccontextmanager
async def looked_after(app, files, looks: Looks) -> AsyncIterator[tuple[Shown, list[Any], Any]]:
    """A door whose certificate is looked after; what is told of that, and where the door is."""
    shown, told = Shown((files.cert, files.key), looks), []
    shown.begin(lambda each: told.append(each["tls"]["fault"]))
    listener = socket.create_server(("127.0.0.1", 0))
    door = Entrance(app.app.connect, Lacks(), shown)
    door.listen(listener)
    try:
        yield shown, told, listener.getsockname()
    finally:
        door.close()


async def watched(shown: Shown, looks: Looks, place: Any) -> None:
    """Look after the files until all looks are done."""
    watching = asyncio.create_task(shown.watch(place))
    try:
        async with asyncio.timeout(20):
            await looks.over.wait()
    finally:
        watching.cancel()


async def test_a_certificate_whose_key_is_still_being_written_is_waited_for(app, files):
    last = files.put("rsa")
    key = files.key.read_text()
    files.put("ec")

    def certificate_first():
        files.cert.write_text(ssl.DER_cert_to_PEM_cert(last))

    looks = Looks(certificate_first, lambda: files.key.write_text(key), lambda: None)
    async with looked_after(app, files, looks) as (shown, told, place):
        await watched(shown, looks, place)
        url = f"https://127.0.0.1:{place[1]}"
        assert await asyncio.to_thread(seen, url) == last
    assert told == ["", ""], "once at the beginning, once when both were there"


async def test_one_that_is_not_shown_at_our_own_door_is_not_kept(app, files):
    first = files.put("ec")
    looks = Looks(lambda: files.put("rsa"), lambda: None)
    async with looked_after(app, files, looks) as (shown, told, place):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            elsewhere = taken.getsockname()
        await watched(shown, looks, elsewhere)
        url = f"https://127.0.0.1:{place[1]}"
        assert await asyncio.to_thread(seen, url) == first
    assert [bool(each) for each in told] == [False, True]


async def test_those_who_say_nothing_keep_nobody_out(app, files, monkeypatch):
    monkeypatch.setattr(entrances, "UNDER_WAY_MAX", 4)
    files.put("ec")
    shown = Shown((files.cert, files.key), SystemClock())
    listener = socket.create_server(("127.0.0.1", 0))
    door = Entrance(app.app.connect, Lacks(), shown)
    place = listener.getsockname()
    door.listen(listener)
    try:
        silent = [await asyncio.open_connection(*place) for _ in range(12)]
        ended = [asyncio.create_task(reader.read()) for reader, _ in silent[:8]]
        await asyncio.wait_for(asyncio.gather(*ended), 20)
        _, writer = await asyncio.open_connection(*place, ssl=any_client())
        writer.close()
        for _, each in silent:
            each.close()
    finally:
        door.close()


async def test_a_gateway_that_ends_lets_a_stream_end(start, files, table, engines, eventually):
    engine = await engines.start()
    files.put("ec")
    gateway = start(table(engine.target))
    go, answer = asyncio.Event(), engine.answer

    async def wait(request, body):
        await go.wait()
        return await answer(request, body)

    engine.behave = wait
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(verify=any_client(), headers=headers, timeout=20) as client:
        asking = asyncio.create_task(client.post(gateway.url + SERVED, json=chat(stream=True)))
        await eventually(lambda: engine.running)
        gateway.popen.terminate()
        go.set()
        assert (await asking).text.endswith("data: [DONE]\n\n")
    assert await gateway.ended() == 0
    assert "Traceback" not in gateway.log


async def test_each_of_several_processes_proves_the_new_one_at_its_own_door(
    start_gateway, home, files, table, engines, eventually
):
    engine = await engines.start()
    files.put("ec")
    home.path.mkdir(parents=True, exist_ok=True)
    home.tls.write_text(f"{files.cert}\n{files.key}\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    each = [
        start_gateway(table(engine.target), "--processes", "3", "--uid", uid, port=port)
        for uid in ("gateway", "gateway-2", "gateway-3")
    ]
    before = seen(each[0].url)
    files.put("rsa")
    await eventually(lambda: each[0].log.count("certificate reloaded") == 3)
    assert before not in {seen(each[0].url) for _ in range(24)}
    assert "the old one is served" not in each[0].log
