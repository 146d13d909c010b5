"""A snapshot with the plan that was made of it, as one text: what control saw, and what it decided.

Only what planning reads is in it. Users, keys and titles are not, nor what engines printed, where
models came from, or what a gate saw where it passed: those say what people asked and who they are.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from madang import __version__
from madang.errors import Corrupt, Rejected, refuse_newer
from madang.forms import marked
from madang.planning.action import Plan
from madang.planning.plan import OURS, plan
from madang.planning.snapshot import Seen, Snapshot
from madang.resources.grant import Grant
from madang.resources.model import Model
from madang.resources.place import Pool, Site
from madang.resources.replica import Replica
from madang.resources.resource import AnyResource
from madang.resources.revision import Build
from madang.resources.round import Round
from madang.resources.tenancy import Project
from madang.supervisor.protocol import Process
from madang.twin.form import Misshapen, canonical, plain, shaped

TEXT_BYTES_MAX = 512 << 20
"""A record that is longer, once unpacked, is not read."""
DIGEST = "sha256"
LEFT_OUT = "-"
GZIP = b"\x1f\x8b"


def planned_kinds() -> frozenset[str]:
    """Return the kinds that planning is offered by name, with what sums are kept in."""
    offered = (
        get_args(get_type_hints(each.fget)["return"])
        for each in vars(Snapshot).values()
        if isinstance(each, property)
    )
    kinds = {inner[1].kind for inner in offered if len(inner) == 2 and hasattr(inner[1], "kind")}
    return frozenset({*kinds, Pool.kind, Project.kind, Site.kind})


@dataclass(frozen=True, slots=True)
class Record:
    """What was seen, and what was made of it."""

    snapshot: Snapshot
    plan: Any
    """As JSON, the way it was written."""
    madang: str
    """The version that made it."""

    @classmethod
    def of(cls, snapshot: Snapshot) -> Record:
        """Record a snapshot, with the plan that is made of what the record will say."""
        kept = shaped(Snapshot, json.loads(canonical(bare(snapshot))))
        return cls(kept, plain(plan(kept)), __version__)

    def text(self) -> str:
        """Return it as one line of canonical JSON, sealed by its digest."""
        body = {"madang": self.madang, "plan": self.plan, "snapshot": plain(self.snapshot)}
        return canonical(sealed(marked(body)))


def sealed(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record's body with the digest of all of it."""
    return {**body, DIGEST: hashlib.sha256(canonical(body).encode()).hexdigest()}


def read(content: bytes, subject: str) -> Record:
    """Read a record, packed or not.

    Raises `Corrupt` for one of a newer Madang, `Rejected` for what is none or is not whole.
    """
    body = _parsed(content, subject)
    if not isinstance(body, dict) or DIGEST not in body:
        raise Rejected("twin.no-record", subject)
    refuse_newer(subject, body)
    if body != sealed({key: each for key, each in body.items() if key != DIGEST}):
        raise Rejected("twin.torn-record", subject)
    try:
        return Record(shaped(Snapshot, body["snapshot"]), body["plan"], str(body["madang"]))
    except (Misshapen, LookupError) as error:
        made_by = str(body.get("madang", LEFT_OUT))
        raise Corrupt("twin.other-record", subject, cause=str(error), version=made_by) from error


def opened(file: str) -> Record:
    """Read the record in a file; raises as `read`, and `Rejected` where it can't be read."""
    try:
        content = Path(file).expanduser().read_bytes()
    except OSError as error:
        raise Rejected("twin.unreadable", file, cause=error.strerror or str(error)) from error
    return read(content, file)


def counts(text: bytes) -> dict[str, int]:
    """Return how much is in the text of a record."""
    body = json.loads(text)
    kept = body["snapshot"]["kept"]
    found = {f"{kind}s": len(kept.get(kind, ())) for kind in ("node", "service", "replica")}
    return {**found, "actions": len(body["plan"]["actions"])}


def _parsed(content: bytes, subject: str) -> Any:
    try:
        return json.loads(unpacked(content))
    except (OSError, EOFError, zlib.error) as error:
        raise Rejected("twin.torn-record", subject) from error
    except (ValueError, RecursionError) as error:
        code = "twin.torn-record" if content.startswith(b"{") else "twin.no-record"
        raise Rejected(code, subject) from error


def unpacked(content: bytes) -> bytes:
    """Return what a file holds; no more than TEXT_BYTES_MAX of it."""
    if not content.startswith(GZIP):
        return content
    whole = zlib.decompressobj(zlib.MAX_WBITS | 16)
    text = whole.decompress(content, TEXT_BYTES_MAX)
    if not whole.eof:
        raise EOFError
    return text


def packed(text: bytes) -> bytes:
    """Return the same, smaller; the same text always has the same bytes."""
    return gzip.compress(text, mtime=0)


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where two plans part; None: there is nothing."""

    where: str
    recorded: Any
    replayed: Any


def replay(record: Record) -> Difference | None:
    """Make the plan anew from the snapshot; None: it is the same, to the last byte."""
    again: Plan = plan(record.snapshot)
    replayed = plain(again)
    if canonical(record.plan) == canonical(replayed):
        return None
    return next(_differences(record.plan, replayed, ""))


def _differences(one: Any, other: Any, where: str) -> Iterator[Difference]:
    """Give the places where two JSON values part, in order."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            path = f"{where}.{key}".removeprefix(".")
            yield from _differences(one.get(key), other.get(key), path)
    elif isinstance(one, list) and isinstance(other, list):
        for number in range(max(len(one), len(other))):
            left, right = (each[number] if number < len(each) else None for each in (one, other))
            yield from _differences(left, right, f"{where}[{number}]")
    elif canonical(one) != canonical(other):
        yield Difference(where, one, other)


def bare(snapshot: Snapshot) -> Snapshot:
    """Return the snapshot without what planning does not read."""
    kinds = planned_kinds()
    kept = {
        kind: {ref: _bare(each) for ref, each in own.items()}
        for kind, own in snapshot.kept.items()
        if kind in kinds
    }
    return replace(snapshot, kept=kept, seen=_bare_seen(snapshot.seen))


def _bare_seen(seen: Seen) -> Seen:
    """Return what is seen of replicas; of what a process announced only where it answers."""
    processes = {
        uid: _bare_process(each) for uid, each in seen.processes.items() if uid.startswith(OURS)
    }
    places = {uid: node for uid, node in seen.places.items() if uid in processes}
    return replace(seen, processes=processes, places=places, lines={})


def _bare_process(process: Process) -> Process:
    said = process.announced
    url = None if said is None else {key: said[key] for key in ("url",) if key in said}
    return replace(process, announced=url)


def _bare_replica(replica: Replica) -> AnyResource:
    bared: Replica = replica.with_status(last_lines=())
    return bared


def _bare_model(model: Model) -> AnyResource:
    versions = (v.model_copy(update={"source": LEFT_OUT}) for v in model.status.versions)
    spec = model.spec.model_copy(update={"source": LEFT_OUT})
    bared: Model = model.with_status(versions=tuple(versions))
    return bared.model_copy(update={"spec": spec})


def _bare_build(build: Build) -> AnyResource:
    """Keep what a failed check found: planning gives it as the reason."""
    checks = (c.model_copy(update={"detail": ""}) if c.passed else c for c in build.status.checks)
    bared: Build = build.with_status(checks=tuple(checks))
    return bared


def _bare_grant(grant: Grant) -> AnyResource:
    bared: Grant = grant.with_status(cards=(), deeds=())
    return bared.model_copy(update={"spec": grant.spec.model_copy(update={"reason": ""})})


def _bare_round(found: Round) -> AnyResource:
    bared: Round = found.with_status(decisions=())
    return bared.model_copy(update={"spec": found.spec.model_copy(update={"title": ""})})


def _bare_project(project: Project) -> AnyResource:
    return project.model_copy(update={"spec": project.spec.model_copy(update={"title": ""})})


def _bare_site(site: Site) -> AnyResource:
    return site.model_copy(update={"spec": site.spec.model_copy(update={"title": ""})})


_BARE: dict[str, Callable[[Any], AnyResource]] = {
    Replica.kind: _bare_replica,
    Model.kind: _bare_model,
    Build.kind: _bare_build,
    Site.kind: _bare_site,
    Project.kind: _bare_project,
    Grant.kind: _bare_grant,
    Round.kind: _bare_round,
}


def _bare(resource: AnyResource) -> AnyResource:
    bared = _BARE.get(resource.kind)
    return bared(resource) if bared else resource
