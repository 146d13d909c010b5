"""A service on its way to ready, told line by line as the world changes."""

from __future__ import annotations

import time

from madang.answers import Json, Resource
from madang.cli.output import note, reason
from madang.client import Client
from madang.errors import Unavailable

READY_S = 600.0
NOWHERE_S = 20.0
"""How long a service may find no place before we stop waiting: nodes need a moment to appear."""
_LOOK_S = 2.0
_STEPS = ("starting", "verifying", "ready")


class Progress:
    """What has been told of one service; feed it every resource as it is now."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._began = time.monotonic()
        self._told = 0
        self._why = ""
        self._judged: dict[str, Json] = {}
        """The status of a build by the uid of the replica on which its gate ran."""
        self._old: set[str] = set()
        """Uids of replicas that were ready before we began: no news."""
        self.now: Resource | None = None
        self.is_gone = False

    def begin(self, resource: Resource) -> None:
        """Take something in as it was before we began."""
        if resource["kind"] == "replica" and resource["status"]["phase"] == "ready":
            self._old.add(resource["uid"])
        self.see(resource)

    def see(self, resource: Resource, gone: bool = False) -> None:
        """Tell what is new."""
        kind, status = resource["kind"], resource["status"]
        if kind == "service" and resource["name"] == self._service:
            self.now, self.is_gone = resource, gone
            if status["observed_generation"] == resource["generation"]:
                self._explain(resource)
        elif gone or resource["uid"] in self._old:
            return
        elif kind == "build":
            self._judged[status["replica"]] = status
        elif kind == "replica" and resource["spec"]["service"] == self._service:
            self._advance(resource)

    def _advance(self, replica: Resource) -> None:
        """Tell every step up to the replica's phase: some go by too fast to be seen."""
        phase = replica["status"]["phase"]
        reached = _STEPS.index(phase) + 1 if phase in _STEPS else 0
        checks = self._gate(replica)
        for step in _STEPS[self._told : reached]:
            if step == "verifying" and phase == "ready" and not checks:
                continue  # an earlier verdict still holds
            if step == "ready" and checks:
                note("up.passed", seconds=self._age(), checks=checks)
            self._note(step, replica)
        self._told = max(self._told, reached)

    def _note(self, step: str, replica: Resource) -> None:
        status = replica["status"]
        accelerators = ", ".join(status["accelerators"])
        where = {"replica": replica["name"], "node": status["node"], "accelerators": accelerators}
        note(f"up.{step}", seconds=self._age(), **where)

    def _gate(self, replica: Resource) -> str:
        """Return the checks that this start of the replica has passed, or nothing."""
        build = self._judged.get(replica["uid"])
        if not build or (build["judged_at"] or 0) < (replica["status"]["started_at"] or 0):
            return ""
        return ", ".join(f"{check['name']} {check['seconds']:.2f} s" for check in build["checks"])

    def _explain(self, service: Resource) -> None:
        """Tell why it does not go on, each reason once."""
        status = service["status"]
        why = reason(status.get("reason"), f"service/{self._service}")
        if status["phase"] in {"pending", "degraded"} and why and why != self._why:
            self._why = why
            note("up.waiting", seconds=self._age(), reason=why)

    def _age(self) -> str:
        return f"{time.monotonic() - self._began:.1f}"


def until_ready(client: Client, service: str, wait_s: float = READY_S) -> Resource:
    """Wait until the service is ready as it is wanted now; raises `Unavailable` when it fails."""
    told = Progress(service)
    after = 0
    for kind in ("service", "build", "replica"):
        listing = client.list(kind)
        after = after or listing["revision"]
        for item in listing["items"]:
            told.begin(item)
        if _is_settled(told, service, 0):
            break
    began = time.monotonic()
    while True:
        if _is_settled(told, service, time.monotonic() - began):
            assert told.now is not None
            return told.now
        if time.monotonic() - began > wait_s:
            raise Unavailable("service.not-ready-in-time", f"service/{service}", seconds=wait_s)
        news = client.changes(after, wait_s=_LOOK_S)
        after = news["revision"]
        for change in news["items"]:
            told.see(change["resource"], change["gone"])


def _is_settled(told: Progress, service: str, age_s: float) -> bool:
    now = told.now
    if now is None or told.is_gone or now["deleted_at"] is not None:
        raise Unavailable("service.gone", f"service/{service}")
    status = now["status"]
    if status["observed_generation"] != now["generation"]:
        return False
    code = (status.get("reason") or {}).get("code", "")
    stuck = code.startswith("placement.") and age_s > NOWHERE_S
    if status["phase"] == "failed" or code == "gate.failed" or stuck:
        why = reason(status.get("reason"), f"service/{service}")
        raise Unavailable("service.not-ready", f"service/{service}", reason=why)
    return bool(status["phase"] == "ready")
