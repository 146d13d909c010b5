"""Keeping the prompts of one project out of another's cache.

Whoever shares a cache of prompts can find out by time, or by the tokens told as cached, what others
have asked (arXiv 2502.07776). So an engine that can keep caches apart by a salt gets one for each
project; one that can't keeps no prompts where several projects call it.
"""

from __future__ import annotations

from msgspec import json
from xxhash import xxh3_64_intdigest

from madang.traffic.requests import Kind
from madang.traffic.table import Endpoint, Key

KEPT_APART: frozenset[Kind] = frozenset({"chat", "completions", "responses"})
"""What engines keep prompts of."""


def apart(kind: Kind, endpoint: Endpoint, key: Key) -> bytes:
    """Return the fields that a request to this endpoint has beside the application's own.

    >>> bot = Endpoint("a/b", "bot", "m", (), 1, cache=frozenset({"cache-off"}))
    >>> apart("chat", bot, Key("app", "a/b", "member"))
    b',"cache_prompt":false'
    """
    if kind not in KEPT_APART:
        return b""
    fields = b""
    if "cache-salt" in endpoint.cache:
        fields += b',"cache_salt":' + json.encode(key.salt)
    if "cache-off" in endpoint.cache:
        fields += b',"cache_prompt":false'
    return fields


def seed(endpoint: Endpoint, key: Key, salt: int) -> int | None:
    """Return what the beginnings of prompts are told apart with; None: no replica keeps any."""
    if "cache-off" in endpoint.cache:
        return None
    return xxh3_64_intdigest(key.salt.encode(), salt) if "cache-salt" in endpoint.cache else salt
