"""A stand-in for control and gateway, small enough to read: the routes that the commands call.

As a program, `standin.py HOME HOST PORT`, it is started by a real supervisor and keeps its state
in the home, as control does. A service goes one phase further each time somebody asks for changes.
"""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from madang.app.sockets import unix
from madang.ending import farewell
from madang.errors import Unavailable
from madang.settings import CONTROL_SOCKET

KEY = "mdg_standin"
PHASES = ("waiting", "starting", "verifying", "ready")
NOWHERE = {"code": "placement.nowhere", "values": {
    "count": 1, "memory": "1TB", "kind": "cpu", "nodes": 1, "grade": "O",
    "fell_too_small": 1,
}}  # fmt: skip
FAILED = {"code": "gate.failed", "values": {"build": "b", "check": "smoke.x", "detail": "mute"}}
Body = dict[str, Any]


class Refusal(Exception):
    def __init__(self, status: int, code: str, subject: str = "", **values: object) -> None:
        super().__init__(code)
        self.status = status
        self.body = {"code": code, "subject": subject, "values": {"subject": subject, **values}}


class World:
    """What there is, with the order in which it changed."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.lock = threading.RLock()
        self.feed: list[Body] = []
        self.asked: list[str] = []
        if path and path.exists():
            self.feed = json.loads(path.read_text())
        if not self.feed:
            self.put("node", "vm", {"pool": "main"}, {"phase": "ready", "cores": 2.0,
                     "memory_bytes": 8 * 10**9, "reason": None}, project="")  # fmt: skip

    @property
    def revision(self) -> int:
        return len(self.feed)

    def put(self, kind: str, name: str, spec: Body, status: Body, **more: Any) -> Body:
        gone = more.pop("gone", False)
        resource = {
            "kind": kind, "project": "local/main", "name": name, "uid": f"{kind}-{name}",
            "generation": 1, "resource_version": self.revision + 1, "created_at": 0.0,
            "deleted_at": None, "spec": spec, "status": status, **more,
        }  # fmt: skip
        self.feed.append({"gone": gone, "resource": resource})
        if self.path:
            self.path.write_text(json.dumps(self.feed))
        return resource

    def all(self, kind: str) -> dict[str, Body]:
        with self.lock:
            newest = {c["resource"]["name"]: c for c in self.feed if c["resource"]["kind"] == kind}
            return {name: c["resource"] for name, c in newest.items() if not c["gone"]}

    def get(self, kind: str, name: str) -> Body:
        found = self.all(kind).get(name)
        if found is None:
            raise Refusal(404, "resource.missing", f"{kind}/{name}", project="local/main")
        return found

    def serve(self, spec: Body) -> None:
        """Take a service in."""
        name = spec["name"]
        wanted = {"model": spec["model"], "scale": spec.get("scale", 1)}
        self.put("service", name, wanted, service_status("pending", None))
        self.put("replica", f"{name}-1-1", {"service": name, "revision": f"{name}-1"},
                 replica_status("waiting"))  # fmt: skip

    def advance(self) -> None:
        """Take every service one phase further."""
        for replica in self.all("replica").values():
            service = self.get("service", replica["spec"]["service"])
            phase = replica["status"]["phase"]
            if (why := {"nowhere": NOWHERE, "broken": FAILED}.get(service["spec"]["model"])) or (
                phase == "ready"
            ):
                if why and not service["status"]["reason"]:
                    said = "failed" if why is FAILED else "pending"
                    self.put("service", service["name"], service["spec"], service_status(said, why))
                continue
            phase = PHASES[PHASES.index(phase) + 1]
            if phase == "ready":
                check = {"name": "smoke.answers", "passed": True, "seconds": 0.1, "detail": ""}
                self.put("build", "b", {"recipe": "fake", "accelerator": "cpu", "gate": ["smoke"]},
                         {"verdict": "passed", "checks": [check], "reason": None,
                          "replica": replica["uid"], "judged_at": self.revision})  # fmt: skip
            self.put("replica", replica["name"], replica["spec"], replica_status(phase))
            self.put("service", service["name"], service["spec"], service_status(phase, None))


def service_status(phase: str, reason: Body | None) -> Body:
    return {"phase": "pending" if phase == "waiting" else phase, "reason": reason,
            "observed_generation": 1, "revision": None, "ready": int(phase == "ready")}  # fmt: skip


def replica_status(phase: str) -> Body:
    return {"phase": phase, "node": "vm", "accelerators": ["vm-cpu0"], "memory_bytes": 10**9,
            "restarts": 0, "reason": None, "pid": 7, "started_at": 1.0}  # fmt: skip


class Door(BaseHTTPRequestHandler):
    """What both doors share: JSON in and out."""

    protocol_version = "HTTP/1.1"
    world: ClassVar[World]
    gateway: ClassVar[str] = ""

    def log_message(self, *_: object) -> None:
        pass

    def answer(self) -> None:
        url = urlsplit(self.path)
        self.query = {k: v[0] for k, v in parse_qs(url.query).items()}
        length = int(self.headers.get("content-length") or 0)
        self.body = json.loads(self.rfile.read(length) or b"{}")
        self.world.asked.append(f"{self.command} {self.path}")
        try:
            if url.path not in {"/readyz", "/healthz"}:
                self.check_key()
            with self.world.lock:
                self.route(*(unquote(part) for part in url.path.strip("/").split("/")))
        except Refusal as refusal:
            self.say({"error": {**refusal.body, "message": "m", "hint": "h"}}, refusal.status)

    do_GET = do_POST = do_DELETE = answer  # noqa: N815  the names that http.server looks for

    def check_key(self) -> None:
        if self.headers.get("authorization") != f"Bearer {KEY}":
            raise Refusal(401, "key.unknown")

    def route(self, *parts: str) -> None:
        raise NotImplementedError

    def say(self, value: object, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def stream(self, lines: list[bytes]) -> None:
        self.send_response(200)
        self.send_header("connection", "close")
        self.end_headers()
        for line in lines:
            self.wfile.write(line)
            self.wfile.flush()
        self.close_connection = True


class Api(Door):
    """The control API."""

    def route(self, *parts: str) -> None:
        if parts[:2] != ("api", "v1"):
            return self.say({"ready": True})
        verb, rest = self.command, parts[2:]
        own = getattr(self, f"{verb.lower()}_{rest[0]}", None) if len(rest) == 1 else None
        if own:
            return own()
        if verb == "DELETE":
            return self.delete(*rest)
        return self.read(*rest)

    def read(self, kind: str, name: str = "", what: str = "") -> None:
        if not name:
            items = list(self.world.all(kind).values())
            return self.say({"revision": self.world.revision, "items": items})
        if what == "logs":
            lines = [f"line {n}" for n in range(200)][-int(self.query["lines"]) :]
            return self.say({"items": [{"replica": name, "lines": lines}]})
        found = self.world.get(kind, name)
        if what == "explanation":
            return self.say(explanation(found))
        return self.say(found)

    def delete(self, kind: str, name: str) -> None:
        gone = self.world.get(kind, name)
        self.world.put(kind, name, gone["spec"], gone["status"], gone=True)
        for replica in self.world.all("replica").values() if kind == "service" else ():
            self.world.put("replica", replica["name"], replica["spec"], {}, gone=True)
        along = self.query.get("made") == "true"
        made = [{"project": "local/main", "name": "app-2"}] if name == "app" else []
        lists = {"along": made if along else [], "alive": [] if along else made}
        self.say({**gone, **(lists if kind == "key" else {})})

    def get_whoami(self) -> None:
        self.say({
            "actor": "key/admin", "role": "operator", "project": "local/main", "where": "",
            "rights": ["read", "write"], "user": "",
        })  # fmt: skip

    def get_status(self) -> None:
        services = [
            {"project": s["project"], "name": s["name"], "wanted": s["spec"]["scale"],
             "model": s["spec"]["model"], "next_try": None, "smallest_fix": None,
             **{k: s["status"][k] for k in ("phase", "ready", "revision", "reason")}}
            for s in self.world.all("service").values()
        ]  # fmt: skip
        own = {"uid": "control", "pid": 1, "rss_bytes": 10**8, "restarts": 0, "state": "running"}
        node = {"name": "vm", "phase": "ready", "cores": 2, "memory_bytes": 10**9,
                "accelerators": 1}  # fmt: skip
        self.say({
            "version": "0", "term": 1, "revision": self.world.revision, "api": "http://api",
            "gateway": self.gateway, "nodes": [node], "services": services, "processes": [own],
            "pools": [{"name": p["name"], **p["spec"], **p["status"]}
                      for p in self.world.all("pool").values()],
            "usage": {"requests": 3, "prompt_tokens": 2, "output_tokens": 1},
        })  # fmt: skip

    def get_doctor(self) -> None:
        bad = {"code": "doctor.disk-short", "ok": False, "subject": "", "values": {"free": "1GB"}}
        good = {"code": "doctor.node-seen", "ok": True, "subject": "node/vm", "values": {}}
        self.say({"items": [good, bad] if "unwell" in self.world.all("service") else [good]})

    def get_changes(self) -> None:
        self.world.advance()
        after = int(self.query["after"])
        kind = self.query.get("kind")
        items = [c for c in self.world.feed[after:] if kind in {None, c["resource"]["kind"]}]
        self.say({"revision": self.world.revision, "items": items})

    def get_event(self) -> None:
        told = {
            "seq": 1,
            "at": 0.0,
            "actor": "control",
            "code": "replica.started",
            "kind": "replica",
            "project": "local/main",
            "name": "hello-1-1",
            "uid": "r",
            "values": {"node": "vm", "accelerators": "c0", "reason": "placement.chosen"},
        }
        self.say({"items": [told] if int(self.query["after"]) < 1 else []})

    def post_apply(self) -> None:
        changes, follows = [], []
        for document in self.body["documents"]:
            if "name" not in document:
                raise Refusal(400, "manifest.missing-key", "service/None", key="name")
            before = self.world.all("service").get(document["name"])
            what = "unchanged" if before else "create"
            changes.append({"what": what, "kind": "service", "project": self.body["project"],
                            "name": document["name"], "fields": []})  # fmt: skip
            if not before:
                where = {"node": "vm", "accelerators": "vm-cpu0"}
                reason = {"code": "placement.chosen", "values": where}
                follows.append({"verb": "replica.started", "reason": reason, "smallest_fix": None,
                                "subject": f"replica/{document['name']}-1-1"})  # fmt: skip
            if not before and not self.body["dry_run"]:
                self.world.serve(document)
        self.say({"changes": changes, "follows": follows})

    def post_model(self) -> None:
        name, source = self.body["name"], self.body["source"]
        lines: list[object] = [{"bytes": 5, "of": 10}, {"bytes": 10, "of": 10}]
        if "missing" in source:
            error = Refusal(400, "model.source-not-a-file", source).body
            lines.append({"error": error})
        else:
            version = {"number": 1, "format": "gguf", "size_bytes": 10, "licence": "apache-2.0",
                       "digest": "sha256:0123456789abcdef"}  # fmt: skip
            status = {"versions": [version]}
            made = self.world.put("model", name, {"source": source}, status)
            lines.append({"resource": made})
        self.stream([json.dumps(line).encode() + b"\n" for line in lines])

    def post_key(self) -> None:
        spec = {"role": self.body["role"], "home": self.body["project"]}
        made = self.world.put("key", self.body["name"], spec, {})
        self.say({"key": "mdg_new", "resource": made})


RAISED = {"place": "local/main", "key": "cores", "most": "3", "was": "2"}


def explanation(found: Body) -> Body:
    return {"subject": f"{found['kind']}/{found['name']}", "phase": found["status"]["phase"],
            "reason": NOWHERE, "since": 0.0, "next_try": 1e9, "last_lines": ["the end"],
            "smallest_fix": {"code": "placement.fix-memory", "values": {"memory": "1GB"}},
            "other_fixes": [{"code": "quota.fix-raise", "values": RAISED}],
            "because": [], "ahead": None, "ahead_higher": 0}  # fmt: skip


class Gateway(Door):
    """The OpenAI-compatible door, for one question."""

    def route(self, *parts: str) -> None:
        if parts == ("healthz",):
            return self.say({"status": "ok"})
        name = self.body["model"]
        service = self.world.all("service").get(name)
        if service is None or service["status"]["phase"] != "ready":
            error = {"message": f"no model {name}", "type": "x", "code": "model_not_found"}
            return self.say({"error": error}, 404)
        words = ["Good ", "day", "."] if len(self.body["messages"]) == 1 else ["Again."]
        words = words[: self.body.get("max_tokens", len(words))]
        pieces = [{"choices": [{"delta": {"content": word}}]} for word in words]
        if self.body["messages"][-1]["content"] == "break":
            pieces[1:] = [{"error": {"message": "gone", "code": "engine_failed"}}]
        lines = [b"data: " + json.dumps(piece).encode() + b"\n\n" for piece in pieces]
        self.stream([*lines, b"data: [DONE]\n\n"])
        return None


class Server(ThreadingHTTPServer):
    """Says nothing when a client leaves in the middle."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*_)


def servers(world: World, host: str, port: int) -> tuple[Server, Server]:
    """Return both doors, listening on the port and the next; 0: on any two."""
    gateway = Server((host, port and port + 1), type("G", (Gateway,), {"world": world}))
    url = f"http://{host}:{gateway.server_port}/v1"
    own = {"world": world, "gateway": url}
    return Server((host, port), type("A", (Api,), own)), gateway


def main(home: Path, host: str, port: int) -> None:
    world = World(home / "standin.json")
    try:
        api, gateway = servers(world, host, port)
    except OSError as error:
        taken = Unavailable("control.port", f"{host}:{port}", cause=str(error), holder="")
        sys.exit(farewell("control", taken))
    own = unix(home / "run", CONTROL_SOCKET)
    (home / "admin.key").write_text(KEY + "\n")
    with (home / "starts").open("a") as starts:
        starts.write("started\n")
    threading.Thread(target=gateway.serve_forever, daemon=True).start()
    with own:
        api.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
