"""Weights and grants that people ask about: the snapshot in which projects have them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from madang.errors import Rejected
from madang.planning.merit import WEIGHT_LEAST, WEIGHT_MOST, granted, weighed
from madang.planning.snapshot import Snapshot
from madang.resources.grant import GrantSpec
from madang.resources.manifest import Manifest
from madang.resources.resource import AnyResource
from madang.twin.change import check_known


def with_merit(
    snapshot: Snapshot, weights: Iterable[str], grants: Iterable[Manifest]
) -> Snapshot:  # fmt: skip
    """Return the snapshot in which these weigh so, and these grants are given.

    Raises `Rejected` for a weight that is none, a project that is not there, a grant that is over.
    """
    return snapshot.after([*_weighed(snapshot, weights), *_given(snapshot, grants)])


def _weighed(snapshot: Snapshot, weights: Iterable[str]) -> Iterator[AnyResource]:
    """Give quotas that differ in their weight alone: PROJECT=WEIGHT each."""
    for written in weights:
        name, _, number = written.rpartition("=")
        weight = _weight(written, name, number)
        yield weighed(project_of(snapshot, name), weight, snapshot)


def _weight(written: str, name: str, number: str) -> float:
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not name or not WEIGHT_LEAST <= weight <= WEIGHT_MOST:
        raise Rejected("twin.bad-weight", written, least=WEIGHT_LEAST, most=WEIGHT_MOST)
    return weight


def project_of(snapshot: Snapshot, written: str) -> str:
    """Return the project that is meant: `acme/lab`, or `lab` where only one is called so."""
    places = _projects(snapshot)
    alike = [place for place in places if place.rpartition("/")[2] == written]
    if written not in places and len(alike) == 1:
        return alike[0]
    check_known("twin.no-such-project", written, places)
    return written


def _projects(snapshot: Snapshot) -> Sequence[str]:
    """Return the projects that are there, or of which there is anything."""
    named = {ref.project for ref in snapshot.kept.get("project", {})}
    named |= {job.project for job in snapshot.jobs.values()}
    named |= {service.project for service in snapshot.services.values()}
    return sorted(named)


def _given(snapshot: Snapshot, grants: Iterable[Manifest]) -> Iterator[AnyResource]:
    """Give grants as if they were active now, with all that they ask for."""
    for manifest in grants:
        if not isinstance(manifest.spec, GrantSpec):
            raise Rejected("twin.no-grant", manifest.subject)
        check_known("twin.no-such-project", manifest.ref.project, _projects(snapshot))
        grant = granted(manifest.ref, manifest.spec, snapshot)
        if grant.ends <= snapshot.now:
            raise Rejected("twin.grant-over", manifest.subject, until=manifest.spec.until)
        yield grant
