"""The smallest change with which something would start within its quotas. Each answer was tried."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from madang.errors import Value
from madang.planning.ask import Ask
from madang.planning.layout import MILLI
from madang.planning.place.gangs import Want
from madang.planning.place.ground import Ground
from madang.planning.quotas import Books, Limit
from madang.resources.quantity import written_size
from madang.resources.resource import Reason

MB = 10**6
RAISED_MAX = 6
"""So many limits are tried to be raised together."""


def relief(limit: Limit, project: str, want: Want, ground: Ground) -> Reason | None:
    """Return the smallest change with which it would start within its quotas; None: none known."""
    return next(reliefs(limit, project, want, ground), None)


def reliefs(limit: Limit, project: str, want: Want, ground: Ground) -> Iterator[Reason]:
    """Return what would help: to ask for less, then to have the quota raised. Each was tried."""
    for smaller, fix in _smaller(limit, want):
        if _starts(ground.books, project, smaller, ground):
            yield fix
            break
    if higher := _raised(limit, project, want, ground):
        yield higher


def _raised(limit: Limit, project: str, want: Want, ground: Ground) -> Reason | None:
    """Return which limits are in the way, and how high they would have to be."""
    raised: list[Limit] = []
    books, short = ground.books, _asked(limit)
    while len(raised) < RAISED_MAX:
        raised.append(short)
        books = books.raised(short, short.most)
        left = books.narrow(project, want.ask, want.nodes, ground.layout.stocks)
        if isinstance(left, Ask):
            return _raise(raised) if replace(want, ask=left).fits(ground) else None
        short = _asked(left)
    return None


def _asked(limit: Limit) -> Limit:
    """Return a limit as it would have to be for what is asked of it."""
    unit = MILLI if limit.what in {"krw", "accelerators", "cores"} else MB
    return replace(limit, was=limit.most, most=-(-(limit.used + limit.asked) // unit) * unit)


def _raise(limits: Sequence[Limit]) -> Reason:
    """Say which limits to raise, and to what; all of them, since one alone would not help."""
    first = limits[0]
    values: dict[str, Value] = {
        "place": first.place, "key": _key(first), "most": _said(first, first.most),
        "was": _said(first, first.was),
    }  # fmt: skip
    if len(limits) == 1:
        return Reason(code="quota.fix-raise", values=values)
    each = (f"quota/{one.place}: {_key(one)}: {_said(one, one.most)}" for one in limits)
    return Reason(code="quota.fix-raise-all", values={"limits": "; ".join(each)})


def _starts(books: Books, project: str, want: Want, ground: Ground) -> bool:
    allowed = books.narrow(project, want.ask, want.nodes, ground.layout.stocks)
    return isinstance(allowed, Ask) and replace(want, ask=allowed).fits(ground)


def _smaller(limit: Limit, want: Want) -> Iterator[tuple[Want, Reason]]:
    """Return what else could be asked for, with how to ask for it; the most first."""
    ask = want.ask
    if limit.what == "krw":
        return
    for nodes in range(want.nodes - 1, 0, -1):
        yield (
            replace(want, nodes=nodes),
            Reason(code="placement.fix-nodes", values={"nodes": nodes}),
        )
    for count in range(ask.count - 1, 0, -1) if limit.what == "accelerators" else ():
        if ask.memory_bytes * count >= ask.total_bytes_min:
            fewer = replace(want, ask=replace(ask, count=count))
            yield fewer, Reason(code="placement.fix-count", values={"count": count})
    each = max(0, limit.most - limit.used) // want.nodes
    if limit.what == "cores" and each:
        fewer = replace(want, ask=replace(ask, cores=each / MILLI))
        yield fewer, Reason(code="placement.fix-cores", values={"cores": each / MILLI})
    if limit.what == "memory" and each and ask.host_memory_bytes:
        size = written_size(each // MB * MB)
        fewer = replace(want, ask=replace(ask, host_memory_bytes=each // MB * MB))
        yield fewer, Reason(code="placement.fix-host-memory", values={"memory": size})


def _key(limit: Limit) -> str:
    return "krw_per_month" if limit.what == "krw" else limit.what


def _said(limit: Limit, most: int) -> str:
    """Write a limit as it stands in a file, where what grants add does not."""
    if limit.what == "accelerators":
        return f"{{{limit.kind}: {max(0, most - limit.granted) // MILLI}}}"
    written = limit.written(most)
    return f"{written:g}" if limit.what == "cores" else str(written)
