"""The one desk of a gateway process: the table it serves, how fresh that is, and who may pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf

from msgspec import json

from madang.traffic import doors
from madang.traffic.admission import Directory
from madang.traffic.budgets import UNCONFIRMED, Budgets, headers
from madang.traffic.caches import seed
from madang.traffic.demand import Demands
from madang.traffic.doors import Head
from madang.traffic.exchange import KEY_REVOKED, Exchange, Fault
from madang.traffic.front import Front, Server
from madang.traffic.hold import Call, Hold
from madang.traffic.inspect import Inspector, Reader, asked, readers
from madang.traffic.leases import Lent
from madang.traffic.lengths import Lengths
from madang.traffic.limits import Limits
from madang.traffic.price import cost_micro
from madang.traffic.prompt import prompt_of
from madang.traffic.refusal import OVERLOADED, Refusal, unavailable
from madang.traffic.requests import Kind, read
from madang.traffic.route import Router
from madang.traffic.table import Endpoint, Key, Pull, RouteTable, Target, Usage

LEASE_WAIT_S = 1.0
"""So long a request waits for control to lend what it needs."""
LACK_TOLD_S = 10.0
"""So long after a lack of open files or memory the gateway's health tells of it."""


class Desk:
    """All that requests share. Times are seconds that only go forward, unless named otherwise."""

    def __init__(
        self,
        limits: Limits,
        front: Front | None = None,
        salt: int = 0,
        inspectors: Sequence[Inspector] = (),
    ) -> None:
        """`salt` is a secret of this process: nobody can tell which prompts look alike to it."""
        self.limits = limits
        self._inspectors = tuple(inspectors)
        self._salt = salt
        self._front = front or Front()
        self._directory = Directory(RouteTable(version=0))
        self._loaded = False
        self._heard_at = -inf
        self._router = Router(limits)
        self._hold = Hold(limits)
        self._demands = Demands()
        self.hurry: Callable[[], None] = lambda: None
        """Called when control is to hear at once of somebody who waits for a first replica."""
        self.budgets = Budgets()
        self._lengths = Lengths()
        self._unconfirmed: dict[Exchange, tuple[Call, float]] = {}
        """Those that wait for a lease, and until when."""
        self._lack, self._lacked_at = "", -inf
        self._told: Mapping[str, object] = {}
        self._open = 0
        self._accounts: dict[str, Exchange] = {}
        self._body_bytes = 0

    @property
    def version(self) -> int:
        """Version of the table that is served; 0 before the first."""
        return self._directory.table.version

    @property
    def open(self) -> int:
        """Requests in hand."""
        return self._open

    def under_way(self) -> list[Exchange]:
        """Return the requests that a replica was asked for and whose account is not closed."""
        return [each for each in self._accounts.values() if each.is_asked]

    def wants(self, table: RouteTable) -> bool:
        """Tell whether a table replaces the one that is served."""
        served = self._directory.table
        is_other = table.store != served.store
        return not self._loaded or is_other or table.version > served.version

    def take(self, table: RouteTable) -> None:
        """Serve this table from now on; requests under way end by the one they began with.

        Those that wait for their turn are looked at again: key or endpoint may be gone.
        """
        self._directory = Directory(table)
        self._loaded = True
        self.budgets.take(table)
        self._lengths.keep({(each.project, each.name) for each in table.endpoints})
        self._router.keep(target for each in table.endpoints for target in each.targets)
        self._hold.review(self._judge)
        self._hold.keep((each.project, each.name) for each in table.endpoints)

    def _judge(self, exchange: Exchange) -> Endpoint | Refusal:
        """Tell whether one who waits would be admitted by the table that is served now."""
        key = self._directory.known(exchange.key)
        if key is None:
            return KEY_REVOKED
        return self._directory.resolve(key, "/".join(exchange.place), exchange.request.kind)

    def hear(self, now: float) -> None:
        """Note that control has answered."""
        self._heard_at = now
        self._demands.heard()

    def pull(self, gateway: str, wait_s: float, now: float) -> Pull:
        """Write the request for the next table, which acknowledges this one."""
        router = self._router
        table = self._directory.table
        inflight, silent = router.inflight, router.silent(now)
        demand = self._demands.told(self._hold.waits(now))
        return Pull(gateway, table.version, inflight, silent, wait_s, table.store, demand)

    def enter(
        self, method: str, path: str, headers: Sequence[tuple[bytes, bytes]], server: Server
    ) -> Head | Refusal:
        """Let a request in as far as its head allows; each entry needs a `leave`."""
        self._open += 1
        if stranger := self._front.stranger(headers, server):
            return doors.misdirected(stranger)
        if self._open > self.limits.requests_max:
            return OVERLOADED
        return doors.open_door(method, path, headers, self.limits.body_bytes_max)

    def enter_again(self, head: Head, length: int) -> Head | Refusal:
        """Let a request in whose head says the same as one that was let in, but for its length."""
        self._open += 1
        if self._open > self.limits.requests_max:
            return OVERLOADED
        most = self.limits.body_bytes_max
        return doors.too_large(most) if length > most else head

    def carry(self, body_bytes: int) -> Refusal | None:
        """Take some more bytes of a body; `leave` puts them down again."""
        if self._body_bytes + body_bytes > self.limits.bodies_bytes_max:
            return OVERLOADED
        self._body_bytes += body_bytes
        return None

    def leave(self, body_bytes: int = 0) -> None:
        """Note that a request is finished, however it went, with all that was carried for it."""
        self._open -= 1
        self._body_bytes -= body_bytes

    def identify(self, head: Head, at: float, now: float) -> Key | Refusal:
        """Find out whose request it is; `at` is Unix seconds."""
        self.budgets.begin(at)
        stale = now - self._heard_at > self.limits.stale_table_s
        return self._directory.identify(head, at, stale)

    def honours(self, exchange: Exchange, at: float) -> bool:
        """Tell whether whoever began an exchange may still go on; `at` is Unix seconds."""
        return self._directory.honours(exchange.key, exchange.place, at)

    def look(self, head: Head, key: Key) -> bytes | Refusal:
        """Answer a question about models."""
        if head.door == "models":
            return self._directory.models(key)
        return self._directory.model(key, head.model)

    def lack(self, cause: str, now: float) -> None:
        """Note that the gateway lacked open files or memory: requests were refused for that."""
        self._lack, self._lacked_at = cause, now

    def tell(self, told: Mapping[str, object]) -> None:
        """Note what more a health check is to say beside all else."""
        self._told = {**self._told, **told}

    def health(self, now: float) -> bytes | Refusal:
        """Answer a health check: fit to serve with any table, however old."""
        if not self._loaded:
            return unavailable("no_table", "gateway.no-table")
        heard = None if self._heard_at == -inf else round(now - self._heard_at, 3)
        counts = {"requests": self._open, "waiting": sum(self._hold.waiting.values())}
        told = {"status": "ok", "table": self.version, "control_heard_s_ago": heard}
        ago_s = now - self._lacked_at
        lack = {"lacked": self._lack, "lacked_s_ago": round(ago_s, 3)}
        more = {**self._told, **(lack if ago_s <= LACK_TOLD_S else {})}
        return json.encode(told | counts | more)

    def admit(
        self, request_id: str, key: Key, kind: Kind, body: bytes, now: float
    ) -> Exchange | Refusal:
        """Check a whole request and open its exchange."""
        request = read(kind, body)
        if isinstance(request, Refusal):
            return request
        endpoint = self._directory.resolve(key, request.model, kind)
        if isinstance(endpoint, Refusal):
            return endpoint
        if endpoint.lacks and (refused := self._directory.fit(endpoint, request)):
            return refused
        line: tuple[Reader, ...] = ()
        if self._inspectors:
            shown = asked(self._inspectors, key, endpoint, request)
            if isinstance(shown, Refusal):
                return shown
            request = shown
            line = readers(self._inspectors, key, endpoint, request)
        tells = request.stream or kind == "embeddings"
        lane = f"{endpoint.project}/{endpoint.name} {key.project}"
        salt = seed(endpoint, key, self._salt) if endpoint.cache else self._salt
        prompt = prompt_of(body, salt, tells, lane)
        exchange = Exchange(request_id, key, endpoint, request, self._router, now)
        exchange.expect(prompt, line, self._begun)
        return exchange

    def _begun(self, exchange: Exchange, now: float) -> None:
        """Note that a replica has read a prompt, and may be sent another."""
        self._hold.serve_at(exchange.place, now)

    def start(self, exchange: Exchange, call: Call, now: float) -> Target | Refusal | None:
        """Choose the replica to ask; None: it waits for its turn, and will be called.

        What it may use is reserved before, and given back by `settle`. If that takes a lease that
        we don't have, it waits a moment for control to answer.
        """
        self._accounts[exchange.id] = exchange
        refused = self._reserve(exchange, now)
        if refused is None:
            return self._go(exchange, call, now)
        if refused.code != UNCONFIRMED or now - self._heard_at > self.limits.stale_table_s:
            return refused
        exchange.hold(now)
        self._unconfirmed[exchange] = call, now + LEASE_WAIT_S
        return None

    def _go(self, exchange: Exchange, call: Call, now: float) -> Target | Refusal | None:
        """Choose the replica to ask, now that what it may use is reserved."""
        self._demands.come(exchange)
        choice = exchange.choose(now) if self._hold.leads(exchange) else None
        if isinstance(choice, Target):
            self._hold.pass_by(exchange, now)
            return choice
        is_first = not self._hold.has_line(exchange.place)
        choice = choice or self._hold.enter(exchange, call, now)
        if is_first and choice is None and not exchange.slots:
            self.hurry()
        return choice

    def lend(self, lents: Iterable[Lent], now: float) -> None:
        """Take leases, and call those that have waited for them."""
        self.budgets.lend(lents)
        self._confirm(now)

    def _confirm(self, now: float) -> None:
        """Look again at all that wait for a lease; whoever has waited too long is refused."""
        for exchange, (call, until) in tuple(self._unconfirmed.items()):
            refused = self._reserve(exchange, now)
            if refused and refused.code == UNCONFIRMED and now < until:
                continue
            del self._unconfirmed[exchange]
            if choice := refused or self._go(exchange, call, now):
                call(choice)

    def _reserve(self, exchange: Exchange, now: float) -> Refusal | None:
        """Take what a request may use of its budgets; the refusal when there is too little."""
        line = self.budgets.line(exchange.key)
        if not line or exchange.reserve:
            return None
        prompt = exchange.request.prompt_tokens
        output = self._lengths.expect(exchange.place, exchange.request)
        micro = cost_micro(exchange.price, prompt, 0, output)
        reserve = self.budgets.reserve(line, prompt + output, micro, now)
        if isinstance(reserve, Refusal):
            return reserve
        exchange.reserve, exchange.headers = reserve, headers(line, now)
        return None

    def failed(
        self, exchange: Exchange, fault: Fault, call: Call, now: float
    ) -> Target | Refusal | None:
        """Choose another replica after one that gave no answer, as `start` does."""
        choice = exchange.failed(fault, now)
        if choice is None:
            self._hold.give_back(exchange, now)
        return choice or self._hold.enter(exchange, call, now, first=True)

    def serve(self, now: float) -> None:
        """Call those whose turn has come, or whose time to wait is over."""
        self._confirm(now)
        self._hold.serve(now)

    def free(self, exchange: Exchange, now: float) -> None:
        """Note that a replica has said all: the next one's turn."""
        exchange.free(now)
        self._hold.serve_at(exchange.place, now)

    def settle(self, exchange: Exchange, status: int, now: float, at: float) -> Usage | None:
        """Close an exchange wherever it stands; None when no replica was asked."""
        if self._unconfirmed:
            self._unconfirmed.pop(exchange, None)
        self._hold.leave(exchange)
        self._demands.go(exchange)
        self._accounts.pop(exchange.id, None)
        self.budgets.begin(at)
        usage = self._account(exchange, exchange.settle(status, now, at))
        self._hold.settle(exchange, usage, now)
        self._hold.serve_at(exchange.place, now)
        return usage

    def _account(self, exchange: Exchange, usage: Usage | None) -> Usage | None:
        """Put what was used in place of what was reserved, and say what it costs."""
        reserve, exchange.reserve = exchange.reserve, None
        if usage is None:
            if reserve:
                self.budgets.release(reserve)
            return None
        prompt, output = usage.prompt_tokens, usage.output_tokens
        if usage.status == 200:
            self._lengths.learn(exchange.place, output)
        if reserve:
            self.budgets.settle(reserve, prompt + output, exchange.micro)
        return usage
