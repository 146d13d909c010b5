"""The doors: which paths and methods exist, and what a head may say.

Knows nothing of keys or models: a request passes here before anybody asks who sent it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from madang.traffic.front import Stranger
from madang.traffic.refusal import Refusal
from madang.traffic.requests import Kind
from madang.traffic.table import Value

Door = Kind | Literal["models", "model", "health"]

PATHS: dict[Kind, str] = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
    "responses": "/v1/responses",
}
"""Where requests of each kind come in."""
ENGINE_PATHS: dict[Kind, str] = {**PATHS, "responses": PATHS["chat"]}
"""Where they go at an engine."""

_DOORS: dict[str, tuple[str, Door]] = {
    **{path: ("POST", kind) for kind, path in PATHS.items()},
    "/v1/models": ("GET", "models"),
    "/healthz": ("GET", "health"),
}
_MODEL = "/v1/models/"
_A_MODEL: Door = "model"
_ONCE = {b"authorization", b"content-length", b"content-encoding", b"transfer-encoding", b"host"}


class Head(Struct, frozen=True, gc=False):
    """What counts of a request's head."""

    door: Door
    model: str = ""
    """Only for the door `model`."""
    authorization: bytes | None = None
    length: int | None = None
    """Bytes of the body; None when it comes in chunks."""


def open_door(
    method: str, path: str, headers: Sequence[tuple[bytes, bytes]], body_bytes_max: int
) -> Head | Refusal:
    """Find what is asked for, and refuse what could be read in two ways."""
    found = _DOORS.get(path)
    if found is None and path.startswith(_MODEL):
        found = "GET", _A_MODEL
    if found is None:
        return Refusal(404, "unknown_url", "gateway.no-such-path", {"path": path[:256]})
    allow, door = found
    if method != allow:
        return Refusal(
            405,
            "method_not_allowed",
            "gateway.wrong-method",
            {"path": path[:256], "allow": allow, "method": method},
            allow=allow,
        )
    kept = _keep(headers)
    if isinstance(kept, Refusal):
        return kept
    length = _length(kept, body_bytes_max)
    if isinstance(length, Refusal):
        return length
    model = path.removeprefix(_MODEL) if door == _A_MODEL else ""
    return Head(door, model, kept.get(b"authorization"), length)


def _keep(headers: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes] | Refusal:
    """Keep headers by name; those that mean something here may come once."""
    kept = dict(headers)
    if len(kept) == len(headers) and b"upgrade" not in kept:
        return kept
    seen: set[bytes] = set()
    for name, _ in headers:
        if name == b"upgrade":
            return _ambiguous("gateway.no-upgrade")
        if name in seen and name in _ONCE:
            return _ambiguous("gateway.header-twice", header=name.decode())
        seen.add(name)
    return kept


def _length(kept: dict[bytes, bytes], body_bytes_max: int) -> int | Refusal | None:
    """Return the body's length, None for chunks; what has neither has no body."""
    if b"content-encoding" in kept and kept[b"content-encoding"] != b"identity":
        return Refusal(415, "unsupported_encoding", "gateway.compressed", param="Content-Encoding")
    if b"transfer-encoding" in kept:
        if kept[b"transfer-encoding"].lower() != b"chunked" or b"content-length" in kept:
            return _ambiguous("gateway.transfer-encoding")
        return None
    digits = kept.get(b"content-length", b"0")
    if not digits.isdigit() or len(digits) > 18:
        return _ambiguous("gateway.bad-length")
    length = int(digits)
    return length if length <= body_bytes_max else too_large(body_bytes_max)


def misdirected(stranger: Stranger) -> Refusal:
    """The request is meant for another server, or comes from a page of one."""
    if stranger == "host":
        return Refusal(421, "host_not_ours", "http.host-not-ours", param="Host", close=True)
    return Refusal(403, "origin_not_ours", "http.origin-not-ours", param="Origin", close=True)


def _ambiguous(message: str, **values: Value) -> Refusal:
    return Refusal(400, "ambiguous_request", message, values, close=True)


def too_large(body_bytes_max: int) -> Refusal:
    """The body is over its bound."""
    return Refusal(
        413, "body_too_large", "gateway.body-too-large", {"limit": body_bytes_max}, close=True
    )
