"""Kinds as people type them: `service`, `services`, `service/hello`; mistakes name the nearest."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from madang.client import Client
from madang.errors import NotFound, Rejected, Unavailable

KINDS = (
    "organization", "project", "user", "quota", "round", "grant", "key", "site", "pool", "node",
    "accelerator", "model", "service", "revision", "build", "replica", "endpoint", "volume",
    "secret", "job", "attempt", "queue",
)  # fmt: skip
"""As `resources.kinds` has them, without the price of importing it; a test compares the two."""


def kind_of(written: str, known: Sequence[str] = KINDS) -> str:
    """Return the kind that is meant; raises `Rejected`.

    >>> kind_of("Services")
    'service'
    """
    kind = written.lower()
    if kind in known:
        return kind
    if kind.removesuffix("s") in known:
        return kind.removesuffix("s")
    near = difflib.get_close_matches(kind, known, n=1, cutoff=0.5)
    raise Rejected("cli.unknown-kind", kind=written, nearest=(near or ["service"])[0])


def canonical(name: str) -> str:
    r"""Return a name in the one form (NFC) that the server keeps: terminals differ.

    >>> canonical("\u1112\u1161\u11ab")
    '한'
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise Rejected("cli.usage", cause="a name that is no text", command="madang") from error
    return unicodedata.normalize("NFC", name)


def thing(written: str, name: str | None = None, known: Sequence[str] = KINDS) -> tuple[str, str]:
    """Split KIND/NAME, or KIND and NAME, into the two.

    >>> thing("service/hello"), thing("service", "hello"), thing("project/local/main")
    (('service', 'hello'), ('service', 'hello'), ('project', 'local/main'))
    """
    kind, slash, rest = written.partition("/") if name is None else (written, "/", name)
    if not slash or not rest:
        raise Rejected("cli.no-name", kind=kind_of(kind, known))
    return kind_of(kind, known), canonical(rest)


@contextmanager
def naming(client: Client, kind: str, name: str) -> Iterator[None]:
    """When it is not there, name the one that was perhaps meant."""
    try:
        yield
    except NotFound as error:
        if kind not in KINDS:
            raise
        try:
            names = [r["name"] for r in client.list(kind)["items"]]
        except Unavailable:
            raise error from None
        if name in names:
            raise
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        if not near:
            raise NotFound("cli.not-found", f"{kind}/{name}", kind=kind) from error
        raise NotFound(
            "cli.not-found-near", f"{kind}/{name}", nearest=f"{kind}/{near[0]}"
        ) from error
