"""What gateways serve: the route table made from the world, and what each has acknowledged."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from msgspec import structs

from madang.control.keys import owner_ref
from madang.control.tides import Tides
from madang.control.world import World
from madang.planning.grants import weights
from madang.planning.snapshot import Demand, EngineFacts
from madang.resources.endpoint import Endpoint
from madang.resources.model import Model
from madang.resources.quota import Quota
from madang.resources.replica import Replica, ReplicaPhase
from madang.resources.resource import AnyResource, Reason, Ref
from madang.resources.revision import Form, Revision
from madang.resources.rights import CONTROL, Right
from madang.resources.service import Service, ServicePhase, rates_of
from madang.resources.serving import UNBOUND, Serving
from madang.resources.tariff import Rates
from madang.resources.tenancy import SITE, Key, User, principal_of, tenant
from madang.settings import GATEWAY_LEASE_S
from madang.traffic import table as traffic

TABLES_KEPT = 256
"""How many past tables are remembered by which replicas they name."""

WEIGHT_MAX = 8.0
"""Of its turns at an endpoint a project gets at most so many times those of another, or so few."""

SOURCES = (
    "endpoint", "replica", "revision", "service", "model", "key", "user", "grant", "quota",
    "project", "organization",
)  # fmt: skip
"""The kinds that a table is made from."""

SALT = "cache-salt"
"""No replica is called so: what the site's secret makes of it and a project is that project's."""
Token = Callable[[str, int], str]
"""(uid, epoch) -> the key that engine asks for."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """What one gateway said last."""

    at_s: float
    """Monotonic."""
    serving: int
    inflight: Mapping[str, int]
    silent: Mapping[str, float]
    lost: int
    unwritten: str


class Gateways:
    """Makes route tables, and knows when a replica can get no more requests."""

    def __init__(self, world: World, token: Token) -> None:
        self.world = world
        self.token = token
        self._table = traffic.RouteTable(version=world.term << 32, store=world.store.id)
        self._sources: tuple[object, ...] = ()
        self._named: OrderedDict[int, frozenset[str]] = OrderedDict()
        self._pulled: dict[str, Pulled] = {}
        self._since_s = world.clock.monotonic()
        self._tides = Tides(self._since_s)

    def table(self) -> traffic.RouteTable:
        """Return the newest table. Its version grows only when something in it changed."""
        sources = tuple(self.world.list(CONTROL, kind) for kind in SOURCES)
        if len(sources) == len(self._sources) and all(
            new is old for new, old in zip(sources, self._sources, strict=True)
        ):
            return self._table
        self._sources = sources
        made = routes(self.world, self.token, self._table.version)
        fresh = self._table.version <= self.world.term << 32
        if fresh or made != self._table:
            version = max(self._table.version, self.world.term << 32) + 1
            self._table = structs.replace(made, version=version)
            named = frozenset(target.uid for e in made.endpoints for target in e.targets)
            self._named[version] = named
            while len(self._named) > TABLES_KEPT:
                self._named.popitem(last=False)
        return self._table

    async def pull(self, asked: traffic.Pull) -> traffic.RouteTable | None:
        """Answer a gateway: the newest table as soon as it is another one, None when time is up."""
        serving = self._note(asked)
        deadline = self.world.clock.monotonic() + min(asked.wait_s, GATEWAY_LEASE_S / 2)
        while True:
            tick, newest = self.world.tick, self.table()
            left_s = self.world.left_s(deadline)
            if newest.version != serving:
                return newest
            if left_s <= 0:
                return None
            await self.world.moved(tick, left_s)

    def _note(self, asked: traffic.Pull) -> int:
        """Note what a gateway says; return the version of ours that it serves, 0 for none."""
        serving = asked.serving if asked.store in {"", self.world.store.id} else 0
        before = self._pulled.get(asked.gateway)
        now_s = self.world.clock.monotonic()
        is_news = self._tides.note(asked.gateway, asked.demand, now_s)
        self._pulled[asked.gateway] = Pulled(
            now_s, serving, asked.inflight, asked.silent, asked.lost, asked.unwritten
        )
        same = before and (before.serving, before.inflight) == (serving, asked.inflight)
        if is_news or not same:
            self.world.wake()
        return serving

    def _live(self) -> list[Pulled]:
        now_s = self.world.clock.monotonic()
        for name in [n for n, p in self._pulled.items() if now_s - p.at_s > GATEWAY_LEASE_S]:
            del self._pulled[name]
        return list(self._pulled.values())

    def routed(self) -> frozenset[str] | None:
        """Return the replicas that a live gateway may still send to; None while that is unknown.

        Unknown: control has just started and some gateway, which an earlier control has heard, has
        had no time to say what it serves; or one serves a table of an earlier control. Each may
        serve any table that was made since the one it has acknowledged: it may be on its way.
        """
        if self.world.clock.monotonic() - self._since_s < GATEWAY_LEASE_S:
            return None
        newest = self.table().version  # whoever asks right now is sent this one
        oldest = min((pulled.serving for pulled in self._live()), default=newest)
        if oldest not in self._named:
            return None
        since = (named for version, named in self._named.items() if version >= oldest)
        return frozenset[str]().union(*since)

    def serving(self) -> dict[str, bool]:
        """Return the live gateways, and whether each serves the newest table."""
        newest = self.table().version
        self._live()
        return {name: pulled.serving == newest for name, pulled in self._pulled.items()}

    def troubles(self) -> dict[str, tuple[int, str]]:
        """Return of each live gateway how many records are lost, and why it can write none."""
        self._live()
        return {name: (pulled.lost, pulled.unwritten) for name, pulled in self._pulled.items()}

    def inflight(self) -> dict[str, int]:
        """Return requests under way by replica, over all live gateways."""
        total: dict[str, int] = {}
        for pulled in self._live():
            for uid, count in pulled.inflight.items():
                total[uid] = total.get(uid, 0) + count
        return total

    def demand(self) -> dict[Ref, Demand]:
        """Return what is called for of each service whose scale is a range."""
        services = self.world.list(CONTROL, "service")
        ranges = {ref: s.range for ref, s in services.items() if isinstance(s, Service)}
        idle_s = {ref: each.idle for ref, each in ranges.items() if each}
        return self._tides.demand(idle_s, self.world.clock.monotonic())

    def silent(self) -> dict[str, float]:
        """Return for how long requests have waited for a byte of a replica, at any live gateway."""
        now_s = self.world.clock.monotonic()
        least: dict[str, float] = {}
        for pulled in self._live():
            for uid, waited_s in pulled.silent.items():
                by_now_s = waited_s + now_s - pulled.at_s
                least[uid] = min(by_now_s, least.get(uid, by_now_s))
        return least


def routes(world: World, token: Token, version: int) -> traffic.RouteTable:
    """Return the endpoints with their ready replicas, the keys by digest, and the limits."""
    ready: dict[Ref, list[Replica]] = {}
    for replica in world.list(CONTROL, "replica").values():
        assert isinstance(replica, Replica)
        if replica.status.phase is ReplicaPhase.READY:
            ready.setdefault(replica.service, []).append(replica)
    endpoints = tuple(
        _endpoint(world, endpoint, ready, token)
        for _, endpoint in sorted(world.list(CONTROL, "endpoint").items())
    )
    return traffic.RouteTable(
        version, endpoints, dict(_keys(world, token)), world.store.id, limits=dict(_limits(world))
    )


def _limits(world: World) -> Iterator[tuple[str, traffic.Allowance]]:
    """Return the limits of projects and organizations that have any."""
    for _, quota in sorted(world.list(CONTROL, Quota.kind).items()):
        assert isinstance(quota, Quota)
        if allowance := _allowance(quota.spec.serving):
            yield quota.project, allowance


def _allowance(serving: Serving) -> traffic.Allowance | None:
    """Return limits as gateways hold to them; None: there are none."""
    return None if serving == UNBOUND else traffic.Allowance(**serving.model_dump())


def _keys(world: World, token: Token) -> Iterator[tuple[str, traffic.Key]]:
    """Return what gateways must know of each key that opens anything.

    What its project weighs in the queue of jobs and services, by quota and grants, it does here.
    """
    weigh = weights(world.snapshot(CONTROL))
    for key in world.list(CONTROL, "key").values():
        assert isinstance(key, Key)
        owned = key.spec.user
        owner = world.get(CONTROL, User, owner_ref(owned)) if owned else None
        who = principal_of(key, owner)
        if who is None:
            continue
        known = traffic.Key(
            name=key.name,
            project=key.spec.home,
            uid=key.uid,
            where=who.where,
            role=who.role,
            may_infer=Right.INFER in who.rights,
            expires_at=key.spec.expires_at,
            weight=min(WEIGHT_MAX, max(1 / WEIGHT_MAX, weigh.get(key.spec.home, 1.0))),
            limits=_allowance(key.spec.limits),
            models=frozenset(key.spec.models),
            salt=token(f"{SALT}/{key.spec.home}", 0),
        )
        if key.spec.former:
            until = min(key.spec.former_until, known.expires_at or key.spec.former_until)
            yield key.spec.former, structs.replace(known, expires_at=until)
        yield key.spec.digest, known  # the last one tells what the key is by now


def _endpoint(
    world: World, endpoint: AnyResource, ready: dict[Ref, list[Replica]], token: Token
) -> traffic.Endpoint:
    assert isinstance(endpoint, Endpoint)
    service_ref = Ref(endpoint.project, endpoint.spec.service)
    replicas = sorted(ready.get(service_ref, ()), key=lambda r: r.uid)
    ways = [(replica.revision, replica.status.variant) for replica in replicas]
    known = {way: _form(world, *way) for way in dict.fromkeys(ways)}
    forms = [known[way] for way in ways]
    contexts = [form.context_tokens // form.slots for form in forms if form]
    facts = [world.engines[f.recipe] for f in forms if f and f.recipe in world.engines]
    visible_to, cache = _shown(world, service_ref, facts)
    service = world.get(CONTROL, Service, service_ref)
    tariff = service.status.tariff if service else None
    return traffic.Endpoint(
        project=endpoint.project,
        name=endpoint.name,
        model=_model(world, replicas[0]) if replicas else "",
        targets=tuple(
            _target(replica, form, token) for replica, form in zip(replicas, forms, strict=True)
        ),
        context_tokens=min(contexts, default=0),
        features=_shared_features(facts),
        waiting=None if replicas else _waiting(world, service_ref),
        lacks=_lacks(world, facts, replicas),
        hold_s=_hold_s(world, service_ref),
        price=_price(rates_of(service)) if service else None,
        wh=_price(tariff.wh) if tariff else None,
        visible_to=visible_to,
        cache=cache,
    )


def _shown(
    world: World, ref: Ref, facts: list[EngineFacts]
) -> tuple[frozenset[str], frozenset[str]]:
    """Return to whom a service is shown, and how prompts of projects are kept apart.

    By a salt wherever an engine can; else by keeping none, where others may call. To others a
    service isn't shown while an engine of it can do neither.
    """
    service = world.get(CONTROL, Service, ref)
    visible_to = frozenset(_meant(world, service)) if service else frozenset[str]()
    known = [each.features & traffic.CACHES for each in facts]
    if not all(known):
        visible_to = frozenset()
    cache = {"cache-salt"} if any("cache-salt" in each for each in known) else set[str]()
    if visible_to and not all("cache-salt" in each for each in known):
        cache.add("cache-off")
    return visible_to, frozenset(cache)


def _meant(world: World, service: Service) -> Iterator[str]:
    """Return to whom a service is shown, but for names that others have by now."""
    for name in service.spec.visible_to:
        there = None if name == SITE else world.get(CONTROL, *tenant(name))
        if name == SITE or (there and there.uid == service.status.shown_to.get(name)):
            yield name


def _lacks(world: World, facts: list[EngineFacts], replicas: list[Replica]) -> frozenset[str]:
    """Return what one of these replicas can't do, by its engine or its model: any may be asked."""
    lacks = frozenset[str]().union(*(traffic.SKILLS - each.features for each in facts))
    for revision in {replica.revision for replica in replicas}:
        takes = _template_takes(world, revision)
        lacks |= frozenset() if takes is None else _OF_TEMPLATES.difference(takes)
    return lacks


_OF_TEMPLATES = frozenset({"tools", "reasoning"})
"""Skills that a model has by its chat template; an engine passes over what that doesn't take."""


def _template_takes(world: World, ref: Ref) -> tuple[str, ...] | None:
    revision = world.get(CONTROL, Revision, ref)
    named = Ref(ref.project, revision.spec.model) if revision else None
    model = world.get(CONTROL, Model, named) if named else None
    version = model.version(revision.spec.model_version) if model and revision else None
    return version.template_takes if version else None


def _price(rates: Rates | None) -> traffic.Price | None:
    return traffic.Price(rates.input, rates.cached, rates.output) if rates else None


def _hold_s(world: World, ref: Ref) -> float:
    """Return how long requests may wait for a replica; 0: none will come by waiting."""
    service = world.get(CONTROL, Service, ref)
    if service is None or service.range is None or service.deleted_at is not None:
        return 0.0
    return 0.0 if service.status.phase is ServicePhase.FAILED else service.range.hold


def _shared_features(facts: list[EngineFacts]) -> frozenset[str]:
    if not facts:
        return frozenset({"chat", "completions", "embeddings"})
    return frozenset.intersection(*(f.features for f in facts))


def _form(world: World, ref: Ref, variant: int) -> Form | None:
    revision = world.get(CONTROL, Revision, ref)
    return revision.spec.form(variant) if revision else None


def _model(world: World, replica: Replica) -> str:
    revision = world.get(CONTROL, Revision, replica.revision)
    return revision.spec.model if revision else ""


def _target(replica: Replica, form: Form | None, token: Token) -> traffic.Target:
    return traffic.Target(
        uid=replica.uid,
        epoch=replica.status.epoch,
        url=replica.status.url,
        token=token(replica.uid, replica.status.epoch),
        slots=form.slots if form else 1,
        kv_tokens=form.context_tokens if form else 0,
    )


def _waiting(world: World, ref: Ref) -> traffic.Waiting:
    """Return what keeps the service from answering."""
    service = world.get(CONTROL, Service, ref)
    if service is None:
        reason = Reason(code="service.missing")
    elif service.most == 0:
        reason = Reason(code="service.scaled-to-zero")
    else:
        reason = service.status.reason or Reason(code="service.starting")
    return traffic.Waiting(reason.code, {"subject": f"service/{ref.name}", **reason.values})
