"""What must always hold, looked at after every step; and what must hold once all is quiet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from madang.planning.memo import Memo
from madang.planning.snapshot import Snapshot
from madang.planning.template import ask_of
from madang.resources.place import Accelerator
from madang.resources.replica import Replica, ReplicaPhase
from madang.resources.resource import AnyResource, Ref
from madang.resources.revision import Revision, RevisionPhase, Verdict
from madang.resources.rights import CONTROL, Principal
from madang.resources.service import Service
from madang.resources.tenancy import Key
from madang.settings import GATEWAY_LEASE_S
from madang.testing.memory import Change
from madang.testing.simulation.control import HARDWARE, digest
from madang.testing.simulation.people import ABSENT, Wish
from madang.testing.simulation.stage import Stage
from madang.traffic.table import Target

if TYPE_CHECKING:
    from madang.testing.simulation.gateway import Gateway
    from madang.testing.simulation.machine import Living
    from madang.testing.simulation.node import Node

P = ReplicaPhase


class Referee:
    """Watches over one history."""

    def __init__(self, history: Stage) -> None:
        self.history = history
        self.violations: list[str] = []
        self.identified: set[tuple[str, int]] = set()
        """(uid, epoch) of every engine that has said who it is."""
        self._passed: set[tuple[str, str]] = set()
        """(digest, kind of accelerator) of what a gate has really passed."""
        self._epochs: dict[str, int] = {}
        self._memory: dict[str, int] = {}
        self._is_new = True
        self._term = 0

    def blame(self, violation: str) -> None:
        """Note that something does not hold."""
        self.violations.append(f"step {self.history.steps}: {violation}")
        self.history.stop()

    # What is told to it.

    def began(self, node: Node, living: Living) -> None:
        """A process executes its first instruction."""
        uid, epoch = living.plan.uid, living.plan.epoch
        others = [p for n, p in self._living() if p.plan.uid == uid and p is not living]
        if others:
            self.blame(f"{uid} lives twice, at epochs {others[0].plan.epoch} and {epoch}")
        if epoch < self._epochs.get(uid, 0):
            self.blame(f"{uid} began at epoch {epoch} after {self._epochs[uid]}")
        self._epochs[uid] = epoch
        kept = self.history.shelf.found("replica", uid)
        if not isinstance(kept, Replica) or kept.status.epoch != epoch:
            self.blame(f"{uid}/{epoch} began and nothing that is stored wants it: {kept}")
        elif kept.status.node != node.name or not kept.status.accelerators:
            self.blame(f"{uid}/{epoch} began on {node.name} without what it needs: {kept.status}")
        else:
            self._memory[uid] = kept.status.memory_bytes
        self._is_new = True

    def ended(self, node: Node, living: Living) -> None:
        """A process has gone."""
        del node, living
        self._is_new = True

    def judged(self, living: Living) -> None:
        """A gate has passed what this engine runs."""
        for name in living.plan.accelerators[:1]:
            self._passed.add((_digest(living), _kind(name)))

    def took(self, gateway: Gateway) -> None:
        """A gateway serves a new table: everything in it was judged, and has said who it is."""
        for endpoint in gateway.table.endpoints:
            for target in endpoint.targets:
                self._check_judged(target)

    def _check_judged(self, target: Target) -> None:
        key = target.uid, target.epoch
        kept = self.history.shelf.found("replica", target.uid)
        if key not in self.identified:
            self.blame(f"{key} gets traffic and never said who it is")
        if not isinstance(kept, Replica) or not kept.status.accelerators:
            return  # it has gone meanwhile: the table is a little old
        revision = self._revision(kept)
        kind = _kind(kept.status.accelerators[0])
        if kept.status.epoch == target.epoch and (revision.spec.digest, kind) not in self._passed:
            self.blame(f"{key} gets traffic and was never judged")

    def routed(self, gateway: Gateway, target: Target) -> None:
        """A request goes to a replica."""
        del gateway
        self._check_judged(target)

    def committed(self, who: Principal, changes: Sequence[Change]) -> None:
        """Something was written."""
        self._is_new = True
        for before, after, is_gone in changes:
            if isinstance(after, Replica):
                assert before is None or isinstance(before, Replica)
                self._check_replica(before, after, is_gone=is_gone)
            if before and who.actor in {"control", "gate"} and after.spec != before.spec:
                self.blame(f"control wrote the spec of {after.kind}/{after.name}")
            if isinstance(after, Service | Key):
                self._check_asked(after, is_gone=is_gone)

    def _check_replica(self, before: Replica | None, after: Replica, *, is_gone: bool) -> None:
        uid, status = after.uid, after.status
        was = before.status if before else None
        if was and (status.epoch < was.epoch):
            self.blame(f"the epoch of {uid} went back from {was.epoch} to {status.epoch}")
        lives = [(n, p) for n, p in self._living() if p.plan.uid == uid]
        if lives and (is_gone or not status.accelerators):
            self.blame(f"{uid} was let go of while it lives on {lives[0][0].name}")
        leaves = is_gone or status.phase is P.STOPPING
        if was and was.phase in {P.READY, P.DRAINING} and leaves:
            self._check_drained(uid, [p for _, p in lives])

    def _check_drained(self, uid: str, lives: Sequence[Living]) -> None:
        """Nothing that serves is stopped while a live gateway may send it something."""
        now_s = self.history.loop.time()
        leaders = [p for p in lives if p.is_child and not p.is_dying]
        if not any(leader.behaviour.answers() for leader in leaders):
            return
        for gateway in self.history.gateways:
            lease = now_s - gateway.heard_at_s < GATEWAY_LEASE_S
            if gateway.life and lease and uid in gateway.routed:
                self.blame(f"{uid} is stopped while {gateway.name} serves it")

    def _check_asked(self, after: Service | Key, *, is_gone: bool) -> None:
        """What people were told is stored is what is stored."""
        possible = self.history.people.possible.get((after.kind, after.name))
        if possible is None:
            return
        absent = is_gone or after.deleted_at is not None
        if not any(_is_as(wish, None if absent else after) for wish in possible):
            self.blame(f"{after.kind}/{after.name} is not as acknowledged: {after} {possible}")

    # After each step.

    def look(self) -> None:
        """Check whatever may have changed since the last look."""
        if self.history.shelf.term < self._term:
            self.blame("the term went back")
        self._term = self.history.shelf.term
        if not self._is_new:
            return
        self._is_new = False
        held: dict[str, dict[str, int]] = {}
        for replica in self._replicas():
            for name in replica.status.accelerators:
                held.setdefault(name, {})[replica.uid] = replica.status.memory_bytes
        for _, living in self._living():
            uid = living.plan.uid
            for name in living.plan.accelerators:
                held.setdefault(name, {}).setdefault(uid, self._memory.get(uid, 0))
        for name, holders in held.items():
            accelerator = self.history.shelf.found("accelerator", f"accelerator-{name}")
            assert isinstance(accelerator, Accelerator)
            spec = accelerator.spec
            if len(holders) > 1 and not spec.shared:
                self.blame(f"{name} is given to {sorted(holders)}")
            if sum(holders.values()) > spec.memory_bytes:
                self.blame(f"{name} has {spec.memory_bytes} bytes for {holders}")

    # At the end.

    def final(self) -> Iterator[str]:
        """Say what is not as it should be, now that nothing has gone wrong for long."""
        snapshot = self._snapshot()
        for (kind, name), possible in self.history.people.possible.items():
            kept = snapshot.kept.get(kind, {}).get(Ref("local/main", name))
            if not any(_is_as(wish, kept) for wish in possible):
                yield f"{kind}/{name} should be one of {possible}, and is {kept}"
        wanted = {f"service/{ref.name}" for ref in snapshot.services}
        for replica in snapshot.replicas.values():
            if f"service/{replica.spec.service}" not in wanted:
                yield f"{replica.name} is left of a service that is gone"
        for service in snapshot.services.values():
            yield from self._unsettled(service, snapshot)
        yield from self._leftovers(snapshot)
        yield from self._usage()

    def _unsettled(self, service: Service, snapshot: Snapshot) -> Iterator[str]:
        own = [r for r in snapshot.replicas.values() if r.spec.service == service.name]
        revisions = [r for r in snapshot.revisions.values() if r.spec.service == service.name]
        newest = max(revisions, key=lambda r: r.spec.number, default=None)
        if service.deleted_at is not None or newest is None:
            yield f"service/{service.name} is half deleted or half made"
            return
        if service.spec.model == "wrong" and service.wanted:
            if newest.status.phase is RevisionPhase.STARTING and self._all_wait(own, snapshot):
                return
            if newest.status.phase is not RevisionPhase.FAILED:
                yield f"{newest.name} should have failed its gate: {newest.status}"
            return
        ready = [r for r in own if r.status.phase is P.READY and r.spec.revision == newest.name]
        others = [r for r in own if r not in ready]
        if service.spec.model != newest.spec.model or len(ready) > service.most:
            yield f"{newest.name} is not what was asked for: {service.spec}"
        if len(ready) < service.wanted and not self._all_wait(others, snapshot):
            phases = [(r.name, r.status.phase, r.status.reason) for r in own]
            yield f"service/{service.name} wants {service.wanted} and has {phases}"
        if len(ready) == service.wanted and others:
            yield f"service/{service.name} has more than it wants: {others}"

    def _all_wait(self, replicas: Sequence[Replica], snapshot: Snapshot) -> bool:
        """Tell whether those that should start have really no place to."""
        waiting = [r for r in replicas if r.status.phase is P.WAITING or _finds_no_place(r)]
        if not waiting:
            return False
        ground = Memo().ground(snapshot)
        for replica in waiting:
            ask = ask_of(replica.revision, snapshot)
            if ask is None or ground.fits(ask):
                return False
        return True

    def _leftovers(self, snapshot: Snapshot) -> Iterator[str]:
        serving = {
            (r.uid, r.status.epoch) for r in snapshot.replicas.values() if r.status.phase is P.READY
        }
        living = {(p.plan.uid, p.plan.epoch) for _, p in self._living()}
        if living - serving:
            yield f"lives for nobody: {living - serving}"
        if serving - living:
            yield f"is called ready and does not live: {serving - living}"
        for replica in snapshot.replicas.values():
            if replica.status.accelerators and replica.status.phase is not P.READY:
                yield f"{replica.name} holds accelerators and is {replica.status.phase}"
        for gateway in self.history.gateways:
            if gateway.routed != {uid for uid, _ in serving}:
                yield f"{gateway.name} serves {gateway.routed} instead of {serving}"
        for build in snapshot.builds.values():
            truth = (build.spec.digest, build.spec.accelerator) in self._passed
            if build.status.verdict is Verdict.PASSED and not truth:
                yield f"{build.name} has passed without being judged"

    def _usage(self) -> Iterator[str]:
        kept, measured = len(self.history.shelf.usage), self.history.measured
        waiting = {r.id for g in self.history.gateways for r in g.undelivered}
        if len(self.history.shelf.usage.keys() | waiting) != measured:
            yield f"{measured} requests were measured and {kept} are kept"

    # What it looks at.

    def _living(self) -> Iterator[tuple[Node, Living]]:
        for node in self.history.nodes.values():
            for living in node.machine.processes.values():
                if living.has_begun:
                    yield node, living

    def _replicas(self) -> Iterator[Replica]:
        for resource, is_gone in self.history.shelf.rows.values():
            if isinstance(resource, Replica) and not is_gone:
                yield resource

    def _revision(self, replica: Replica) -> Revision:
        for resource, is_gone in self.history.shelf.rows.values():
            named = (resource.project, resource.name) == (replica.project, replica.spec.revision)
            if isinstance(resource, Revision) and named and not is_gone:
                return resource
        raise AssertionError(f"no revision of {replica.name}")

    def _snapshot(self) -> Snapshot:
        control = self.history.control
        found: Snapshot = control.world.snapshot(CONTROL, control.observer.seen())
        return found


def _finds_no_place(replica: Replica) -> bool:
    """Tell whether it has ended, should start again, and has nowhere to."""
    reason = replica.status.reason
    is_down = replica.status.phase in {P.BACKING_OFF, P.FAILED} and not replica.status.accelerators
    return is_down and reason is not None and reason.code.startswith("placement.")


def _is_as(wish: Wish, kept: AnyResource | None) -> bool:
    """Tell whether what is kept is what somebody wished."""
    if wish is ABSENT or kept is None:
        return wish is ABSENT and (kept is None or kept.deleted_at is not None)
    if not isinstance(kept, Service):
        return True
    spec, needs = kept.spec, kept.spec.needs
    return (spec.model, spec.scale) == (wish["model"], wish["scale"]) and (
        needs.count, needs.accelerator
    ) == (wish["needs"]["count"], wish["needs"].get("accelerator", ""))  # fmt: skip


def _digest(living: Living) -> str:
    return next(d for m in ("small", "large", "wrong") if (d := digest(m)) in living.plan.argv[-1])


def _kind(name: str) -> str:
    """Return the kind of an accelerator by its name."""
    node, _, device = name.partition("-")
    return next(found.kind for found in HARDWARE[node] if found.name == device)
