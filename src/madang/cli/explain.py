"""`madang explain`: why something is as it is, and the smallest change that helps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from madang.answers import Expected, Explanation
from madang.cli.course import body
from madang.cli.kinds import naming, thing
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import moment, phase, reason, say, show_json, word
from madang.errors import Value


def explain(what: str, name: str | None = None, /, *, options: Options = DEFAULTS) -> None:
    """Say why something is as it is, and the smallest change that helps.

    Parameters
    ----------
    what
        KIND/NAME, or KIND with NAME after it.
    name
        The name, where it was not given with the kind.
    """
    kind, name = thing(what, name)
    with options.client() as client, naming(client, kind, name):
        found = client.explain(kind, name)
        now = client.course(name) if kind == "job" else None
    if options.json:
        show_json({**found, "course": now} if now else found)
    else:
        _show(found, "", () if now is None else tuple(body(now)))


def _show(found: Explanation, indent: str, more: Sequence[str] = ()) -> None:
    """Print one explanation, more that is known of it, and below it what it waits for."""
    since = word("explain.since", since=moment(found["since"])) if found["since"] else ""
    say(indent + "  ".join(filter(None, [found["subject"], phase(found["phase"]), since])))
    indent += "  "
    for line in (*lines(found), *turn(found), *more, *last_lines(found)):
        say(f"{indent}{line}")
    for cause in found["because"]:
        _show(cause, indent)


def lines(found: Explanation) -> Iterator[str]:
    """Give what is said of one thing: why, since when it is so, and what would help."""
    if found["reason"]:
        yield reason(found["reason"], found["subject"])
        yield from filters(found["reason"]["values"])
    elif not found["because"]:
        yield word("explain.fine")
    yield from (reason(each, found["subject"]) for each in found.get("findings", ()))
    if found["next_try"]:
        yield word("explain.next-try", at=moment(found["next_try"]))
    if found["smallest_fix"]:
        yield word("explain.fix", fix=reason(found["smallest_fix"], found["subject"]))
    for each in found.get("other_fixes", ()):
        yield word("explain.or", fix=reason(each, found["subject"]))


def turn(found: Explanation) -> Iterator[str]:
    """Say that a job is the first in line, if it is, and when it would start."""
    if found["ahead"] == 0:
        yield word("explain.first")
    if when := found.get("expected"):
        yield expected(when)


def expected(when: Expected) -> str:
    """Say when it would start, by the trials of the twin."""
    likely, late, looked = when["likely_at"], when["late_at"], when["looked_until"]
    if likely is None and looked is None:
        return word("explain.not-learnt", jobs=when["learnt"])
    if likely is None:
        return word("explain.not-before", until=moment(looked or 0.0))
    if late is None:
        return word("explain.likely", at=moment(likely))
    return word("explain.expected", at=moment(likely), late=moment(late))


def last_lines(found: Explanation) -> Iterator[str]:
    """Give the last lines that it printed, where they may tell why."""
    if found["last_lines"]:
        yield word("explain.last-lines")
        yield from (f"  | {line}" for line in found["last_lines"])


FILTERS = (
    "filter.lost", "filter.drained", "filter.grade", "filter.wrong-kind", "filter.too-small",
    "filter.no-watts", "filter.quota", "filter.too-few", "filter.fenced", "filter.cores",
    "filter.host-memory", "filter.power", "filter.busy",
)  # fmt: skip
"""In the order in which planning asks."""


def filters(values: Mapping[str, Value]) -> Iterator[str]:
    """Say how many nodes fell to which rule of placement."""
    for code in FILTERS:
        nodes = values.get("fell_" + code.partition(".")[2].replace("-", "_"))
        if nodes:
            told = {"grade": values.get("grade", ""), "kinds": values.get("no_watts", "")}
            yield "  " + word(code, nodes=nodes, **told)
