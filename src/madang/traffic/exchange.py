"""One request on its way: which replica, whose turn, what to pass on, what it used.

The gateway asks and tells; every decision between "admitted" and "accounted for" is here. Times
are seconds that only go forward, except where Unix seconds are named.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import inf
from typing import Literal

from msgspec import structs

from madang.traffic import inspect
from madang.traffic.account import CUT_OFF, Opened
from madang.traffic.budgets import Reserve
from madang.traffic.caches import apart
from madang.traffic.doors import ENGINE_PATHS
from madang.traffic.inspect import Reader
from madang.traffic.limits import Limits
from madang.traffic.price import MICRO, cost_micro
from madang.traffic.prompt import BYTES_PER_TOKEN, Prompt
from madang.traffic.refusal import OVERLOADED, Refusal, from_engine, unavailable
from madang.traffic.requests import Request
from madang.traffic.retold import Retold
from madang.traffic.route import Router
from madang.traffic.share import Claim
from madang.traffic.stream import EventStream
from madang.traffic.table import Endpoint, Key, Price, Target, Usage
from madang.traffic.usage import Tokens, is_object, tokens_in

Fault = Literal["refused", "lost", "busy", "garbled", "short"]
"""No connection; one that ended without an answer; an engine that said 503; no such answer;

and no connection because this gateway is short of open files or memory.
"""

Place = tuple[str, str]
"""An endpoint: its project and its name."""

ATTEMPTS_MAX = 2
NAMES_CACHED = 1024
RETRY_AFTER_S_MAX = 30
"""Whoever waited in vain is told to come again after as long as it waited, and at most this."""
CLIENT_LEFT = 499
"""The status recorded, never sent, when the client did not wait."""

ENGINE_DIED = Refusal(502, "engine_lost", "gateway.engine-lost")
ENGINE_SILENT = Refusal(504, "engine_silent", "gateway.engine-silent")
ANSWER_TOO_LARGE = Refusal(502, "answer_too_large", "gateway.answer-too-large")
KEY_REVOKED = Refusal(401, "key_revoked", "gateway.key-revoked")
STOPPING = unavailable("gateway_stopping", "gateway.stopping")


@lru_cache(NAMES_CACHED)
def _names(theirs: str, ours: str) -> Names:
    """Return how an engine may write its model's name in an answer, and what is said instead."""
    return tuple(
        (f'"model":{space}"{theirs}"'.encode(), f'"model":{space}"{ours}"'.encode())
        for space in ("", " ")
    )


Names = tuple[tuple[bytes, bytes], ...]
Begun = Callable[["Exchange", float], None]


class Exchange:
    """The state of one admitted request, all of it; whoever keeps track of it notes that here."""

    id: str
    """What the answer, the engine's log and the usage record have in common."""
    key: Key
    """Who asks, as it was when the request came."""
    _endpoint: Endpoint
    request: Request
    """What is asked, as it was checked."""
    _router: Router
    _limits: Limits
    _began: float
    _prompt: Prompt
    """What decides where it goes; by itself: its replicas' load alone."""
    _readers: tuple[Reader, ...] = ()
    """Who inspects its answer."""
    _begun: Begun | None = None
    """Told when its prompt was read: its replica may be sent another."""

    place: Place = ("", "")
    """The endpoint that is asked."""
    deadline: float = inf
    """When whoever has to act next has taken too long."""
    client_turn: bool = False
    """True while that is the client, who has to take what it was sent."""
    call: Callable[[Target | Refusal], None] | None = None
    """Told when its turn has come; None: it doesn't wait."""
    claim: Claim | None = None
    """What its project was charged for its turn."""
    is_counted: bool = False
    """Whether it counts as called for."""
    reserve: Reserve | None = None
    """What it has of the budgets it counts for; None: nothing, or no more."""
    headers: bytes = b""
    """What a good answer tells of these, as it is written: each with a line end before it."""
    micro: int = 0
    """What it has cost, in millionths of a won; known once it is settled."""

    _held_at: float = 0.0
    _attempts: int = 0
    _blamed: bool = False
    _target: Target | None = None
    _replica: str = ""
    _engine_status: int = 0
    _names: Names = ()
    """How the replica may call itself in an answer, and what is said instead."""
    _first_byte_s: float | None = None
    _events: EventStream
    _inspected: bool = False
    _retold: Retold | None = None
    _body: bytes | bytearray = b""
    _tokens: Tokens | None = None

    def __init__(
        self, its: str, key: Key, endpoint: Endpoint, request: Request, router: Router, now: float
    ) -> None:
        self.id, self.key, self.request = its, key, request
        self._endpoint, self._router, self._limits = endpoint, router, router.limits
        self._began = now
        self._prompt = Prompt()
        self.place = endpoint.project, endpoint.name
        self._events = EventStream(request.wants_usage, self._limits.event_bytes_max)
        if request.told:
            self._retold = Retold(its, request.model, request.told)

    def expect(self, prompt: Prompt, readers: tuple[Reader, ...], begun: Begun) -> None:
        """Have it go by its prompt, be inspected, and tell when its prompt was read."""
        self._prompt, self._readers, self._begun = prompt, readers, begun

    @property
    def prompt_tokens(self) -> int:
        """What is to be read, as estimated."""
        return self.request.prompt_tokens

    @property
    def tenant(self) -> str:
        """Whose share of the endpoint it takes: the project of its key."""
        return self.key.project

    @property
    def project(self) -> str:
        """Whose endpoint is asked."""
        return self._endpoint.project

    @property
    def price(self) -> Price | None:
        """What its tokens cost; None: nothing."""
        return self._endpoint.price

    @property
    def model(self) -> str:
        """The endpoint's name as the application said it."""
        return self.request.model

    @property
    def is_held(self) -> bool:
        """Whether it may wait while its endpoint has no replica."""
        return self._endpoint.hold_s > 0

    @property
    def slots(self) -> int:
        """On how many requests its endpoint works at once."""
        return sum(target.slots for target in self._endpoint.targets)

    @property
    def cached_tokens(self) -> float:
        """How much of its prompt some replica was sent before, and may still have."""
        return self._router.cached_tokens(self._endpoint.targets, self._prompt)

    @property
    def slack_tokens(self) -> float:
        """How far from its turn one may be that goes first, since its prompt is cached."""
        per_s = self._router.tokens_per_s(self._endpoint.targets)
        return min(self._limits.slack_tokens, self._limits.slack_s * per_s)

    def hold(self, now: float) -> None:
        """Note that it waits for its turn from now on."""
        self._held_at, self.deadline = now, now + self._hold_s

    @property
    def _hold_s(self) -> float:
        return self._endpoint.hold_s or self._limits.held_s

    def held_s(self, now: float) -> float:
        """Return for how long it has waited for its turn."""
        return now - self._held_at

    def move(self, endpoint: Endpoint) -> None:
        """Follow the endpoint to where it is now; only while no replica is chosen."""
        self._endpoint = endpoint
        self.place = endpoint.project, endpoint.name

    def turn(self, now: float) -> Target | Refusal | None:
        """Do as `choose` does, for a request that has waited: not if that was too long."""
        return self._too_late() if now >= self.deadline else self.choose(now)

    def _too_late(self) -> Refusal:
        wait_s = max(1, round(self._hold_s))
        refusal = unavailable(
            "waited_too_long",
            "gateway.waited-too-long",
            min(wait_s, RETRY_AFTER_S_MAX),
            model=self.model,
            seconds=wait_s,
        )
        return structs.replace(refusal, waiting=self._endpoint.waiting)

    def choose(self, now: float, without: str = "") -> Target | Refusal | None:
        """Pick the replica to ask, not this one; None: wait for one; the refusal: there is none."""
        targets, router = self._endpoint.targets, self._router
        target = router.take(targets, now, without, self._prompt)
        if target is not None:
            self._attempts += 1
            self._target = target
            self.deadline = now + self._limits.first_byte_s
            return target
        if (self.is_held and not targets) or router.may_wait(targets, now, without):
            return None
        wait_s = max(1, round(router.wait_s(targets, now)))
        return unavailable("no_replica", "gateway.no-replica", wait_s, model=self.model)

    def upstream(self, target: Target) -> tuple[str, bytes]:
        """Return the address and body to send to a replica; from now on it counts as asked."""
        self._replica = target.uid
        request, endpoint = self.request, self._endpoint
        self._names = _names(target.uid, request.model)
        more = apart(request.kind, endpoint, self.key) if endpoint.cache else b""
        return target.url + ENGINE_PATHS[request.kind], request.encode(target.uid, more)

    def failed(self, fault: Fault, now: float) -> Target | Refusal | None:
        """Note that the chosen replica gave no answer; pick another, once, as `choose` does.

        A connection that just ended may be an idle one closed as we wrote, so that replica is not
        blamed at once and may be asked again. One request blames at most one replica, unless no
        connection came about: a request that kills engines must not close the door for all.
        """
        target = self._let_go(now)
        if fault == "short":
            return OVERLOADED
        if fault == "refused":
            self._router.blame(target, now)
        elif fault in {"busy", "garbled"} or self._attempts == ATTEMPTS_MAX:
            self._blame(target, now)
        if self._attempts == ATTEMPTS_MAX:
            return unavailable("no_answer", "gateway.no-answer", model=self.model)
        other = self.choose(now, without=target.uid)
        return self.choose(now) if fault == "lost" and isinstance(other, Refusal) else other

    def free(self, now: float) -> None:
        """Let go of the replica once it has said all, however long the client takes."""
        if self._target:
            self._let_go(now)

    def _blame(self, target: Target, now: float) -> None:
        if not self._blamed:
            self._router.blame(target, now)
        self._blamed = True

    def _let_go(self, now: float) -> Target:
        target, self._target = self._target, None
        assert target is not None, "no replica was chosen"
        self._router.give_back(target, now, self._prompt)
        return target

    def answers(self, status: int, content_type: str, now: float) -> Fault | None:
        """Take the head of an answer; a fault when it is none, and another replica may be asked."""
        if self._target:
            self._router.hear(self._prompt, now)
        if status == 503:
            return "busy"
        wanted = "text/event-stream" if self.request.stream else "application/json"
        if status == 200 and not content_type.startswith(wanted):
            return "garbled"
        if 200 < status < 500:
            self._praise()
        self._engine_status = status
        self.deadline = now + self._limits.first_byte_s
        return None

    def _praise(self) -> None:
        if self._target:
            self._router.praise(self._target)

    @property
    def streaming(self) -> bool:
        """Whether the answer is a stream; only after `answers`."""
        return self.request.stream and self._engine_status == 200

    def engine_turn(self, now: float) -> None:
        """Note that the client took all, and the engine is to go on."""
        self.client_turn = False
        done = self._events.done
        self.deadline = now + (self._limits.linger_s if done else self._limits.gap_s)

    def taken(self, now: float) -> None:
        """Note that the client has taken a part of a whole answer."""
        self.deadline = now + self._limits.client_s

    def feed(self, data: bytes, now: float) -> bytes | Refusal:
        """Take a piece of a stream; return what the client is to get of it."""
        if self._target:
            self._router.hear(self._prompt, now)
        if self._first_byte_s is None:
            self._note_first_byte(now)
        events = self._events
        began = events.pieces
        try:
            passed = events.feed(data)
            if self._readers:
                seen = self._inspect(passed, events.done)
                if isinstance(seen, Refusal):
                    return seen
                passed = seen
            if self._retold:
                passed = self._retold.feed(passed)
        except OverflowError:
            return ANSWER_TOO_LARGE
        except ValueError:
            return self._garbled(now)
        if not passed:
            self.client_turn, self.deadline = False, now + self._limits.gap_s
            return passed
        if not began:
            self._praise()
        self.client_turn, self.deadline = True, now + self._limits.client_s
        return self._rename(passed)

    @property
    def done(self) -> bool:
        """Whether the engine has said that this was all of its stream."""
        return self._events.done

    def ended(self) -> Refusal | None:
        """Tell whether a stream that has ended was whole."""
        return None if self._events.done else ENGINE_DIED

    def collect(self, data: bytes, now: float) -> Refusal | None:
        """Take a piece of an answer that is no stream."""
        if self._target:
            self._router.hear(self._prompt, now)
        if self._first_byte_s is None:
            self._note_first_byte(now)
        if not self._body:  # most often it is the only piece
            self._body = data
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += data
        self.deadline = now + self._limits.gap_s
        return ANSWER_TOO_LARGE if len(self._body) > self._limits.answer_bytes_max else None

    def answer(self, now: float) -> bytes | Refusal:
        """Return the collected answer, ready for the client, whose turn it is now."""
        self.client_turn = True
        self.deadline = now + self._limits.client_s
        body = bytes(self._body)
        if self._engine_status != 200:
            return from_engine(self._engine_status, body)
        self._tokens, _ = tokens_in(body)
        if self._tokens is None and not is_object(body):
            return self._garbled(now)
        if self._target:
            tokens = self._tokens
            self._prompt.written = tokens.output if tokens else len(body) / BYTES_PER_TOKEN
            self._router.praise(self._target)
        try:
            passed = self._inspect(body, last=True) if self._readers else body
            if isinstance(passed, Refusal):
                return passed
            return self._retold.whole(passed) if self._retold else self._rename(passed)
        except ValueError:
            return self._garbled(now)

    def _inspect(self, data: bytes, last: bool) -> bytes | Refusal:
        """Show a piece of the answer to those who read it."""
        if self._inspected or not (data or last):
            return data
        self._inspected = last
        return inspect.passed(self._readers, data, last)

    def _garbled(self, now: float) -> Refusal:
        if self._target:
            self._blame(self._target, now)
        return Refusal(502, "engine_failed", "gateway.engine-garbled")

    def _note_first_byte(self, now: float) -> None:
        self._first_byte_s = now - self._began
        if self._target and self._router.read(self._prompt, now) and self._begun:
            self._begun(self, now)

    def _rename(self, data: bytes) -> bytes:
        """Say the model's name as the application knows it; a replica's uid is ours alone.

        A quote inside a JSON string is escaped, so this never touches what a model wrote.
        """
        for theirs, ours in self._names:
            data = data.replace(theirs, ours)
        return data

    def silent(self, now: float) -> Refusal | None:
        """Note that a deadline has passed, the engine's or that of the wait for one.

        None if all had been said by then.
        """
        if self._events.done:
            return None
        if self._target is None:
            return self._too_late()
        if self._first_byte_s is None:
            self._blame(self._target, now)
        return ENGINE_SILENT

    @property
    def is_asked(self) -> bool:
        """Whether a replica was ever asked: from then on there is an account to close."""
        return bool(self._replica)

    @property
    def passed(self) -> int:
        """Output tokens that have passed by now: as the engine says, or as they were seen."""
        tokens = self._events.tokens or self._tokens
        return tokens.output if tokens else self._events.pieces

    def opened(self, now: float, at: float) -> Opened:
        """Return what is written down of it while it is open. `at` is Unix seconds."""
        usage = self._usage(CUT_OFF, now, at, Tokens(self.request.prompt_tokens, 0, 0))
        reserve = self.reserve.tokens if self.reserve else 0
        return Opened(usage, reserve, self.price, self._endpoint.wh)

    def settle(self, status: int, now: float, at: float) -> Usage | None:
        """Close the account; None when no replica was ever asked. `at` is Unix seconds.

        Who left while a replica was at work pays for the prompt and what had passed by then.
        """
        worked = status == CLIENT_LEFT and self._target is not None
        if self._target:
            self._let_go(now)
        if not self._replica:
            return None
        tokens = self._events.tokens or self._tokens
        served = worked or (self._first_byte_s is not None and self._engine_status == 200)
        prompt = self.request.prompt_tokens if served else 0
        counted = tokens or Tokens(prompt, 0, self._events.pieces)
        self.micro = cost_micro(self.price, counted.prompt, counted.cached, counted.output)
        return self._usage(status, now, at, counted, served and tokens is None)

    def _usage(
        self, status: int, now: float, at: float, counted: Tokens, estimated: bool = False
    ) -> Usage:
        key, endpoint = self.key, self._endpoint
        drawn = cost_micro(endpoint.wh, counted.prompt, counted.cached, counted.output)
        # In the order of its fields: by their names it would take seven times as long.
        return Usage(
            self.id, at, key.name, endpoint.project, endpoint.name, self._replica,
            counted.prompt, counted.cached, counted.output, status, now - self._began,
            self._first_byte_s, estimated, key.uid, key.project, endpoint.model,
            self.micro / MICRO, endpoint.price, drawn / MICRO,
        )  # fmt: skip
