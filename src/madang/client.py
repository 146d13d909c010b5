"""The typed client: people use it as a Python library, the commands use nothing else.

Standard library only, so that a command starts in no time. Answers are the API's own JSON
objects, declared in `answers`; an error body becomes the same `MadangError` as inside.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from http.client import (
    HTTPException,
    HTTPResponse,
    IncompleteRead,
)
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import quote, urlencode, urlsplit

from madang import settings
from madang.answers import (
    Applied,
    AuditPage,
    Change,
    Changes,
    Check,
    Course,
    Event,
    Explanation,
    Json,
    Listing,
    Log,
    Message,
    NewKey,
    Outcome,
    RankLines,
    Resource,
    Revoked,
    SweepCourse,
    Usage,
    parsed,
    refusal,
)
from madang.errors import MadangError, Rejected, Unauthorized, Unavailable
from madang.messages import language
from madang.tls import dial

DEFAULT_PROJECT = "local/main"
TIMEOUT_S = 30.0
AGAIN_AFTER_S = (0.3, 1.2)
"""Pauses before a change whose answer was lost, or that was refused for now, is sent again."""
STREAM_TIMEOUT_S = 600.0
"""Longest silence within a stream: a large file is read, a cold model loads."""
WAIT_S = 20.0
"""How long one long poll waits for news."""
SITE_WIDE = frozenset({
    "organization", "project", "user", "quota", "queue", "round", "site", "pool", "node",
    "accelerator",
})  # fmt: skip
"""Kinds that are looked up without a project."""
ANSWER_BYTES_MAX = 64 << 20
LINE_BYTES_MAX = 1 << 20
PIECE_BYTES = 1 << 18
T = TypeVar("T")
Headers = Mapping[str, str]
NO_MORE: Headers = {}


class Address(NamedTuple):
    """Where a Madang is, and the key to it."""

    api: str
    gateway: str
    """Empty: not known yet; the API says it."""
    key: str


def find(
    url: str = "", key: str = "", home: str = "", environ: Mapping[str, str] = os.environ
) -> Address:
    """Choose where to call: what is given, else MADANG_URL and MADANG_KEY, else the last login.

    A home that is given counts before all of these; without any of them, it is the user's own.
    """
    url = url or ("" if home else environ.get("MADANG_URL", ""))
    key = key or ("" if home else environ.get("MADANG_KEY", ""))
    if not (url or key or home or environ.get("MADANG_HOME")):
        url, key = _logged_in(environ)
    place = settings.home(home or None, environ)
    api, gateway = (url.rstrip("/"), "") if url else _listening(place)
    key = key or _admin_key(place)
    if not key.isascii() or not key.isprintable():
        raise Unauthorized("client.bad-key")
    return Address(api, gateway, key)


def _logged_in(environ: Mapping[str, str]) -> tuple[str, str]:
    """Return address and key of the last `madang login`; nothing where there is none."""
    try:
        said = json.loads(settings.login(environ).read_bytes())
        return str(said["url"]), str(said["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", ""


def _listening(home: settings.Home) -> tuple[str, str]:
    said = settings.listening(home)
    if not said:
        raise Unavailable("control.not-started", str(home.path))
    return said["api"], said["gateway"]


def _admin_key(home: settings.Home) -> str:
    try:
        return home.admin_key.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise Unauthorized("client.no-key", str(home.admin_key)) from error


class Client:
    """A Madang to talk to. Each call is one request; `close` ends the streams still open.

    Calls raise the errors of `madang.errors`: `NotFound`, `Unavailable`, …
    """

    def __init__(self, url: str = "", key: str = "", *, project: str = "", home: str = "") -> None:
        self._address = find(url, key, home)
        self._project = project or os.environ.get("MADANG_PROJECT", "")
        self._open: set[HTTPResponse] = set()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the streams still open."""
        for answer in tuple(self._open):
            answer.close()

    @property
    def api(self) -> str:
        """The control API's address, without a path."""
        return self._address.api

    @property
    def key(self) -> str:
        """The key that is sent."""
        return self._address.key

    @property
    def gateway(self) -> str:
        """The gateway's address, ending in /v1; asked of the API where no file says it."""
        if not self._address.gateway:
            self._address = self._address._replace(gateway=str(self.status()["gateway"]))
        return self._address.gateway

    @property
    def project(self) -> str:
        """The project that is meant: as given, else MADANG_PROJECT, else the key's own."""
        self._project = self._project or str(self.whoami()["project"]) or DEFAULT_PROJECT
        return self._project

    def is_ready(self) -> bool:
        """Tell whether the API answers and takes work."""
        try:
            self._read("GET", f"{self.api}/readyz", None, 2.0)
        except MadangError:
            return False
        return True

    def whoami(self) -> Json:
        """Return the key's actor, role, project, place, rights and user."""
        return cast("Json", self._json("GET", "whoami"))

    def status(self) -> Json:
        """Return the whole of it: version, addresses, nodes, services, processes, usage."""
        return cast("Json", self._json("GET", "status"))

    def usage(self, project: str = "", month: str = "", by: str = "") -> Usage:
        """Return what a project, or each that is seen, had and used in a month: `2026-11`.

        Tokens are told by `day`, `model` or `key`.
        """
        query = {"project": project, "month": month, "by": by}
        given = {name: value for name, value in query.items() if value}
        found: Usage = self._json("GET", "usage", given)
        return found

    def resume(self, kind: str, name: str) -> Resource:
        """Let a job or a service go on that was suspended, or that lost what stood idle."""
        path, query = self._ref(kind, name)
        return cast("Resource", self._json("POST", f"{path}/resume", query))

    def snapshot(self) -> bytes:
        """Return what planning sees now, with its plan, as a file that `madang twin` reads."""
        return self._read("GET", f"{self.api}/api/v1/snapshot", None, STREAM_TIMEOUT_S)

    def doctor(self) -> Sequence[Check]:
        """Return what was looked at, and whether it is well."""
        return cast("Sequence[Check]", self._json("GET", "doctor")["items"])

    def list(self, kind: str, *, everywhere: bool = False) -> Listing:
        """Return everything of that kind: in the project, or all there is where it has none."""
        query = {} if everywhere or kind in SITE_WIDE else {"project": self.project}
        return cast("Listing", self._json("GET", kind, query))

    def get(self, kind: str, name: str) -> Resource:
        """Return one object; a project's name is the full one, `organization/project`."""
        return cast("Resource", self._json("GET", *self._ref(kind, name)))

    def explain(self, kind: str, name: str) -> Explanation:
        """Return why it is as it is, worked out now."""
        path, query = self._ref(kind, name)
        return cast("Explanation", self._json("GET", f"{path}/explanation", query))

    def logs(
        self, kind: str, name: str, lines: int = 100, rank: int | None = None
    ) -> Sequence[Log]:
        """Return the last lines of a service's replicas, a replica, a job's ranks, a `process`."""
        path, query = self._ref(kind, name)
        query = {**query, "lines": lines} | ({} if rank is None else {"rank": rank})
        items: Sequence[Log]
        items = self._json("GET", f"{path}/logs", query)["items"]
        return items

    def course(self, job: str) -> Course:
        """Return where a job is."""
        path, query = self._ref("job", job)
        return cast("Course", self._json("GET", f"{path}/course", query))

    def sweep(self, job: str) -> SweepCourse:
        """Return where a sweep is, and each of its jobs."""
        path, query = self._ref("job", job)
        return cast("SweepCourse", self._json("GET", f"{path}/sweep", query))

    def progress(self, job: str, rank: int = 0, after: int = 0) -> RankLines:
        """Return what a rank of the newest attempt has said of its progress behind that byte."""
        path, query = self._ref("job", job)
        query = {**query, "rank": rank, "after": after}
        return cast("RankLines", self._json("GET", f"{path}/progress", query))

    def changes(self, after: int, wait_s: float = WAIT_S, kind: str = "") -> Changes:
        """Wait for what changes after that revision, at most `wait_s`; in the project, if any."""
        query: Json = {"after": after, "wait_s": wait_s}
        query |= {"kind": kind} if kind else {}
        query |= {} if kind in SITE_WIDE else {"project": self.project}
        return cast("Changes", self._json("GET", "changes", query, timeout_s=wait_s + TIMEOUT_S))

    def watch(self, kind: str, name: str = "") -> Iterator[Change]:
        """Yield everything of that kind (or the one object), then each change, without end."""
        listing = self.list(kind)
        now: Sequence[Change] = [{"gone": False, "resource": r} for r in listing["items"]]
        after = listing["revision"]
        while True:
            yield from (c for c in now if name in {"", c["resource"]["name"]})
            news = self.changes(after, kind=kind)
            after, now = news["revision"], news["items"]

    def events(
        self, after: int = 0, limit: int = 1000, wait_s: float = 0, *, everywhere: bool = False
    ) -> Sequence[Event]:
        """Return events after that number, of the project or of all; may wait for the first."""
        of: Json = {} if everywhere else {"project": self.project}
        query = {"after": after, "limit": limit, "wait_s": wait_s, **of}
        items = self._json("GET", "event", query, timeout_s=wait_s + TIMEOUT_S)["items"]
        return cast("Sequence[Event]", items)

    def audit(self, after: int = 0, limit: int = 1000) -> AuditPage:
        """Return audit records after that number, and which state they are of."""
        return cast("AuditPage", self._json("GET", "audit", {"after": after, "limit": limit}))

    def apply(self, documents: Sequence[Any], dry_run: bool = False) -> Applied:
        """Make it so; with `dry_run` only say what would change and follow."""
        body = {"documents": documents, "project": self.project, "dry_run": dry_run}
        return cast("Applied", self._json("POST", "apply", body=body))

    def add_code(self, digest: str, packed: str = "", project: str = "") -> bool:
        """Send a job's program, or only ask for it; tell whether the server has it now."""
        body = {"digest": digest, "packed": packed, "project": project or self.project}
        return bool(self._json("POST", "code", body=body)["known"])

    def set_secret(self, name: str, text: str) -> Resource:
        """Keep a text under a name, for jobs; nobody is told it again."""
        body = {"name": name, "text": text, "project": self.project}
        return cast("Resource", self._json("POST", "secret", body=body))

    def act(self, kind: str, name: str, what: str, **said: Any) -> Any:
        """Do something about a grant or a round; return the one, or how the other stands."""
        path, query = self._ref(kind, name)
        return self._json("POST", f"{path}/act", query, body={"what": what, **said})

    def calls(self, name: str = "") -> Sequence[Outcome]:
        """Return every round, or one, with those requests that the caller may see."""
        found = self._json("GET", f"call/{_quoted(name)}" if name else "call")
        return [found] if name else cast("Sequence[Outcome]", found["items"])

    def delete(self, kind: str, name: str) -> Resource:
        """Take it down; returns before it is gone, with what it was."""
        return cast("Resource", self._json("DELETE", *self._ref(kind, name)))

    def drain(self, node: str, *, drain: bool) -> Resource:
        """Have a node emptied, or used again; returns what it is from then on."""
        body = {"drain": drain}
        return cast("Resource", self._json("POST", f"node/{quote(node, safe='')}/drain", body=body))

    def release(self, accelerator: str) -> Resource:
        """Have a fenced accelerator offered again; returns before control has done so."""
        return cast("Resource", self._json("POST", f"accelerator/{_quoted(accelerator)}/release"))

    def revoke_key(self, name: str, made: bool = False) -> Revoked:
        """Make a key worthless; with `made` all that it has made, in one transaction."""
        path, query = self._ref("key", name)
        gone: Revoked = self._json("DELETE", path, {**query, "made": "true"} if made else query)
        return gone

    def add_model(
        self, name: str, source: str, progress: Callable[[int, int], None] | None = None
    ) -> Resource:
        """Import a model; `progress(bytes so far, bytes in all)` is called on the way."""
        body = {"name": name, "source": source, "project": self.project}

        def read(more: Headers) -> Resource:
            with closing(self._lines("POST", f"{self.api}/api/v1/model", body, more)) as lines:
                for line in lines:
                    said = parsed(line, self.api)
                    if "error" in said:
                        raise refusal(int(said["error"].get("status", 400)), line, self.api)
                    if "resource" in said:
                        made: Resource = said["resource"]
                        return made
                    if progress:
                        progress(int(said["bytes"]), int(said["of"]))
            raise Unavailable("control.broke-off", self.api, cause="the stream ended early")

        return _once(read)

    def create_key(self, name: str, role: str = "member", **more: Any) -> NewKey:
        """Make an api key of the project; its secret is in the answer and nowhere else.

        More: `expires_s`, `where` (a place; "" is the whole site), `scopes` (rights), `user`,
        `limits` (as a quota's `serving`), `models` (names that it may call).
        """
        body = {"name": name, "role": role, "project": self.project, **more}
        return cast("NewKey", self._json("POST", "key", body=body))

    def rotate_key(self, name: str, overlap_s: float = 0.0) -> NewKey:
        """Give a key another secret; so long the one before it opens as much."""
        path, query = self._ref("key", name)
        body = {"overlap_s": overlap_s}
        return cast("NewKey", self._json("POST", f"{path}/rotate", query, body=body))

    def backup(self) -> Iterator[bytes]:
        """Yield a backup of the whole home piece by piece; for operators of the site."""
        url = f"{self.api}/api/v1/backup"
        with self._answer("POST", url, {}, STREAM_TIMEOUT_S) as answer:
            while piece := answer.read(PIECE_BYTES):
                yield piece

    def note_backup(self, outcome: Json) -> None:
        """Write down that a backup was kept (`backed-up`), or tried (`drilled`)."""
        self._json("POST", "backup/outcome", body=outcome)

    def declared(self, project: str = "") -> Json:
        """Return every object that people have declared: `items`, each with its `document`."""
        found: Json = self._json("GET", "declared", {"project": project} if project else None)
        return found

    def chat(self, service: str, messages: Sequence[Message], **options: Any) -> Iterator[str]:
        """Yield the next turn of a conversation piece by piece; options as OpenAI names them."""
        body = {"model": service, "messages": messages, "stream": True, **options}
        url = f"{self.gateway}/chat/completions"
        with closing(self._lines("POST", url, body)) as lines:
            for line in lines:
                data = line.removeprefix(b"data:").strip()
                if data == b"[DONE]" or not line.startswith(b"data:"):
                    continue
                said = parsed(data, url)
                if "error" in said:
                    raise refusal(503, data, url)
                for choice in said.get("choices") or ():
                    if piece := choice.get("delta", {}).get("content"):
                        yield str(piece)

    def ask(self, service: str, question: str, **options: Any) -> str:
        """Return the whole answer to one question."""
        return "".join(self.chat(service, [{"role": "user", "content": question}], **options))

    def _ref(self, kind: str, name: str) -> tuple[str, Json]:
        """Return the path and query of one object."""
        path = f"{_quoted(kind)}/{_quoted(name)}"
        return path, {} if kind in SITE_WIDE or kind == "process" else {"project": self.project}

    def _json(
        self,
        method: str,
        path: str,
        query: Json | None = None,
        *,
        body: Json | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Any:
        url = f"{self.api}/api/v1/{path}" + (
            f"?{urlencode(query, errors='surrogatepass')}" if query else ""
        )

        def read(more: Headers) -> bytes:
            return self._read(method, url, body, timeout_s, more)

        content = read({}) if method == "GET" else _once(read)
        return parsed(content, self.api) if content else {}

    def _read(
        self, method: str, url: str, body: Json | None, timeout_s: float, more: Headers = NO_MORE
    ) -> bytes:
        with self._answer(method, url, body, timeout_s, more) as answer:
            if answer.length is None and not answer.chunked:
                raise HTTPException("its head was cut")  # a whole one says how long the answer is
            content = answer.read(ANSWER_BYTES_MAX + 1)
            if answer.length and len(content) <= ANSWER_BYTES_MAX:
                raise IncompleteRead(content, answer.length)  # asked for so many, read is silent
        if len(content) > ANSWER_BYTES_MAX:
            raise Rejected("client.answer-too-large", url, limit_bytes=ANSWER_BYTES_MAX)
        return content

    def _lines(
        self, method: str, url: str, body: Json, more: Headers = NO_MORE
    ) -> Generator[bytes, None, None]:
        with self._answer(method, url, body, STREAM_TIMEOUT_S, more) as answer:
            while line := answer.readline(LINE_BYTES_MAX):
                if line.strip():
                    yield line

    @contextmanager
    def _answer(
        self, method: str, url: str, body: Json | None, timeout_s: float, more: Headers = NO_MORE
    ) -> Iterator[HTTPResponse]:
        """Send one request and hand out its answer; a refusal and a broken line are raised."""
        to = urlsplit(url)
        is_gateway = bool(self._address.gateway) and url.startswith(self._address.gateway)
        connection = dial(to, timeout_s, own=is_gateway)
        headers = {
            "authorization": f"Bearer {self.key}",
            "content-type": "application/json",
            "accept-language": language(os.environ),
            **more,
        }
        content = None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, f"{to.path}?{to.query}", content, headers)
            with connection.getresponse() as answer, self._listed(answer):
                if answer.status >= 400:
                    raise refusal(answer.status, answer.read(LINE_BYTES_MAX), url)
                yield answer
        except ConnectionRefusedError as error:
            raise Unavailable("control.unreachable", f"{to.scheme}://{to.netloc}") from error
        except (OSError, HTTPException) as error:
            where = f"{to.scheme}://{to.netloc}"
            raise Unavailable("control.broke-off", where, cause=str(error)) from error
        finally:
            connection.close()

    @contextmanager
    def _listed(self, answer: HTTPResponse) -> Iterator[None]:
        """Let `close` reach this answer while it is read."""
        self._open.add(answer)
        try:
            yield
        finally:
            self._open.discard(answer)


def _once(call: Callable[[Headers], T]) -> T:
    """Ask for a change, again if the answer was lost; the key sees to it that it is done once."""
    more = {"idempotency-key": secrets.token_hex(16)}
    for pause_s in AGAIN_AFTER_S:
        try:
            return call(more)
        except Unavailable:
            time.sleep(pause_s)
    return call(more)


def _quoted(name: str) -> str:
    """Write a part of a path; what is no text goes to the server as it is, and is refused there."""
    return quote(name, safe="", errors="surrogatepass")


def _query(query: Json) -> str:
    return urlencode(query, errors="surrogatepass")
