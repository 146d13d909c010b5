"""Weights and grants that might be: what would stand in the world if projects had them."""

from __future__ import annotations

from madang.planning.snapshot import Snapshot
from madang.resources.grant import Grant, GrantPhase, GrantSpec, GrantStatus
from madang.resources.quota import Quota, QuotaSpec, QuotaStatus
from madang.resources.resource import Ref

WEIGHT_LEAST, WEIGHT_MOST = 0.01, 100.0


def quota_of(place: str, snapshot: Snapshot) -> Quota:
    """Return the quota of a place; of one that has none, one that says nothing."""
    ref = Ref(place, place.rpartition("/")[2])
    return snapshot.quotas.get(ref) or Quota(
        project=place, name=ref.name, uid=f"quota-{place}", spec=QuotaSpec(), status=QuotaStatus(),
    )  # fmt: skip


def weighed(place: str, weight: float, snapshot: Snapshot) -> Quota:
    """Return the quota of a place that differs in its weight alone."""
    quota = quota_of(place, snapshot)
    spec = quota.spec.model_copy(update={"weight": weight})
    return quota.model_copy(update={"spec": spec})


def granted(ref: Ref, spec: GrantSpec, snapshot: Snapshot) -> Grant:
    """Return a grant as if it were active now, with all that it asks for."""
    status = GrantStatus(phase=GrantPhase.ACTIVE, count=spec.count, since=snapshot.now)
    uid = f"grant-{ref.project}-{ref.name}"
    return Grant(project=ref.project, name=ref.name, uid=uid, spec=spec, status=status)
