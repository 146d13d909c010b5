"""One request as its bytes said it, and what is refused of a head before anybody looks at it.

llhttp, strict, refuses most of what could be read in two ways; what it lets pass is refused here:
transfer encodings other than one `chunked`, any in HTTP/1.0, other versions, no Host or two, and
every upgrade, whose body llhttp would leave to be read as the next request.
"""

from __future__ import annotations

from urllib.parse import unquote

from httptools import HttpParserInvalidURLError, parse_url

from madang.gateway.form import Form
from madang.traffic.doors import PATHS, Head, misdirected
from madang.traffic.refusal import Headers, Refusal

KEPT = {
    name: name
    for name in (
        b"accept-language", b"authorization", b"content-encoding", b"content-length", b"expect",
        b"host", b"origin", b"transfer-encoding", b"upgrade",
    )
}  # fmt: skip
"""The headers that mean something here; all others are dropped as they come."""

_PLAIN = {path.encode(): path for path in (*PATHS.values(), "/v1/models", "/healthz")}


class Asked:
    """One request; its body grows as it comes."""

    __slots__ = (
        "body", "headers", "is_old", "keeps_alive", "length", "method", "path", "seen", "target",
        "trouble", "whole",
    )  # fmt: skip

    def __init__(
        self, method: str, target: bytes, headers: Headers, is_old: bool, keeps_alive: bool
    ) -> None:
        self.method = method
        self.target = target
        self.path = _PLAIN.get(target, "")
        """What is asked for, without query; empty until `framing` has looked, if it is unusual."""
        self.headers = headers
        self.is_old = is_old
        """HTTP/1.0: no chunks in the answer, and none after it."""
        self.keeps_alive = keeps_alive
        self.body: bytes | bytearray = b""
        self.whole = False
        self.trouble: Refusal | None = None
        """What `framing` says of it."""
        self.seen: Seen | None = None
        """What is kept of its head, should one come again that says the same."""
        self.length = 0
        """Bytes of its body as its head says, if that came before."""

    def add(self, piece: bytes) -> None:
        """Take some more of the body; many small pieces must not weigh more than one large."""
        body = self.body
        if not body:
            self.body = piece
        elif isinstance(body, bytearray):
            body += piece
        else:
            self.body = bytearray(body) + piece

    def said(self, name: bytes) -> bytes:
        """Return a header's value, or nothing; of several the last."""
        found = b""
        for each, value in self.headers:
            if each == name:
                found = value
        return found


class Seen:
    """A head that came before, and what was made of it."""

    __slots__ = ("_first", "form", "head")

    def __init__(self, form: Form, first: Asked) -> None:
        self.form = form
        self._first = _again(first)
        self.head: Head | None = None
        """None: nothing yet, or a refusal."""

    def again(self, length: int) -> Asked:
        """Begin a request with such a head and a body of this length."""
        asked = _again(self._first)
        asked.seen, asked.length = self, length
        return asked


def _again(asked: Asked) -> Asked:
    other = Asked(asked.method, asked.target, asked.headers, asked.is_old, asked.keeps_alive)
    other.path = asked.path
    return other


def framing(asked: Asked, version: str, upgrades: bool) -> Refusal | None:
    """Refuse a head that another reader might understand in another way."""
    if upgrades:
        return _ambiguous("gateway.no-upgrade")
    if version not in {"1.1", "1.0"}:
        return Refusal(505, "http_version", "gateway.http-version", close=True)
    hosts = codings = 0
    for name, value in asked.headers:
        if name == b"host":
            hosts += 1
        elif name == b"transfer-encoding":
            codings += 1
            if codings > 1 or asked.is_old or value.lower() != b"chunked":
                return _ambiguous("gateway.transfer-encoding")
    if hosts != 1:
        return misdirected("host")
    return None if asked.path else _address(asked)


def _address(asked: Asked) -> Refusal | None:
    """Find the path of an unusual target; refuse one that names another host, or nothing at all."""
    if not asked.target.startswith(b"/"):
        _, mark, rest = asked.target.partition(b"://")
        if mark and rest.partition(b"/")[0].lower() != asked.said(b"host").lower():
            return misdirected("host")
    try:
        path = (parse_url(asked.target).path or b"").decode("ascii")
    except (HttpParserInvalidURLError, UnicodeDecodeError):
        path = ""
    asked.path = unquote(path) if "%" in path else path
    return None if path else _ambiguous("gateway.no-address")


def _ambiguous(message: str) -> Refusal:
    return Refusal(400, "ambiguous_request", message, close=True)
