"""Secrets and prompts pass through all that can go well or wrong, and are then looked for."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from .conftest import Yard, kill

pytestmark = [pytest.mark.story, pytest.mark.timeout(240)]

PROMPT = "canary-prompt-1f0c9e, my number is 900101-1234567"
GUESS = "mdg_" + "canaryguess" * 4
PROXY = "canary-cookie-77aa"


def ask(url: str, method: str, path: str, key: str, body: Any = None) -> str:
    """Send one request with canaries everywhere; return all that came back."""
    where = urlsplit(url)
    connection = HTTPConnection(where.hostname or "", where.port, timeout=60)
    headers = {
        "Authorization": f"Bearer {key}",
        "Cookie": PROXY,
        "Content-Type": "application/json",
    }
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    try:
        connection.request(method, path, content, headers)
        answer = connection.getresponse()
        return f"{answer.status} {answer.headers} {answer.read().decode(errors='replace')}"
    except OSError as error:
        return str(error)
    finally:
        connection.close()


def processes(yard: Yard) -> list[dict[str, Any]]:
    """Every process below this home's supervisor."""
    found, parents = [], {yard.supervisor}
    stats = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        stats[int(path.parent.name)] = int(fields[1])
    while more := {pid for pid, parent in stats.items() if parent in parents} - parents:
        parents |= more
    for pid in parents:
        try:
            argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        found.append({"pid": pid, "argv": argv})
    return found


def pid_of(yard: Yard, process: str) -> int:
    """Return its number, 0 while there is none or nobody who tells."""
    told = yard.run("status", "--json")
    listed = json.loads(told.stdout)["processes"] if told.returncode == 0 else []
    return next((int(each["pid"]) for each in listed if each["uid"] == process), 0)


def engine_tokens(yard: Yard) -> list[str]:
    """The keys of the engines, from the gateway's own table."""
    table = json.loads((yard.home / "gateway" / "table.json").read_bytes())
    return [target["token"] for each in table["endpoints"] for target in each["targets"]]


READ = (
    "whoami", "key", "status", "changes?after=0", "event", "service/bot/logs", "replica",
    "process/control/logs", "process/gateway/logs", "service/none", "build", "user",
)  # fmt: skip
WRITTEN: tuple[tuple[str, str, Any], ...] = (
    ("GET", "/docs", None), ("GET", "/openapi.json", None), ("DELETE", "/api/v1/key/none", None),
    ("POST", "/api/v1/apply", {"documents": [{"kind": "nix"}]}), ("PUT", "/api/v1/apply", {}),
    ("POST", "/api/v1/apply", b"{"), *(("GET", f"/api/v1/{path}", None) for path in READ),
)  # fmt: skip


def succeed_and_fail(yard: Yard, key: str) -> list[str]:
    """Go through success, 4xx and 5xx at both doors."""
    gateway, door = yard.told["gateway"].removesuffix("/v1"), "/v1/chat/completions"
    chat = {"model": "bot", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 8}
    odd = ({"stream": True}, {"n": 99}, {"model": "none"}, {"model": "hello"})
    bodies: list[Any] = [chat, *({**chat, **more} for more in odd)]
    bodies.append(b'{"messages": "' + PROMPT.encode())
    said = []
    for shown in (key, GUESS):
        said += [ask(gateway, "POST", door, shown, body) for body in bodies]
        said += [ask(yard.told["api"], *deed[:2], shown, deed[2]) for deed in WRITTEN]
    return said


def test_no_secret_and_no_prompt_is_to_be_found_where_people_look(
    new_yard: Callable[[str], Yard],
) -> None:
    yard = new_yard("canaries")
    yard.up()
    admin = (yard.home / "admin.key").read_text().strip()
    yard.fake("words")
    yard.apply(kind="service", name="bot", model="words")
    yard.until_phase("service", "bot", "ready")
    made = yard.json("key", "create", "app")
    gateway = yard.told["gateway"].removesuffix("/v1")
    yard.until(
        "the gateway knows the key",
        lambda: ask(gateway, "GET", "/v1/models", made["key"]).startswith("200"),
    )
    secrets = {admin, made["key"], GUESS, PROMPT, PROXY, *engine_tokens(yard)}
    secrets.add((yard.home / "secret.key").read_text().strip())
    said = succeed_and_fail(yard, made["key"])
    said += [yard.run(*c).stdout for c in (("status",), ("events",), ("doctor",), ("get", "key"))]
    shown = [p["argv"] for p in processes(yard)]
    assert len(shown) >= 4, "supervisor, control, gateway, an engine"
    kill(yard.replicas("bot")[0]["status"]["pid"])
    said += succeed_and_fail(yard, made["key"])
    for process in ("control", "gateway"):
        pid = yard.pid(process)
        kill(pid) if process == "gateway" else os.kill(pid, signal.SIGABRT)
        yard.until(f"{process} is back", lambda p=process, old=pid: pid_of(yard, p) not in {0, old})
    yard.until_phase("service", "bot", "ready")
    said += succeed_and_fail(yard, made["key"])
    said += [yard.run(*c).stdout + yard.run(*c).stderr for c in (("events",), ("status",))]
    logs = {p.name: p.read_text(errors="replace") for p in (yard.home / "logs").iterdir()}
    assert "gateway.log" in logs
    places = {**logs, **dict(enumerate(said)), **{f"argv {a[:80]}": a for a in shown}}
    with sqlite3.connect(f"file:{yard.home / 'state.db'}?mode=ro", uri=True) as state:
        places["state"] = "\n".join(state.iterdump())
    places["usage"] = "".join(
        p.read_text(errors="replace") for p in (yard.home / "gateway").glob("usage*")
    )
    found = [
        (secret[:12], where)
        for secret in secrets
        for where, text in places.items()
        if secret in text
    ]
    assert found == []
