"""One request on its way: which replica, whose turn, what to pass on, what it used.

The gateway asks and tells; every decision between "admitted" and "accounted for" is here. Times
are seconds that only go forward, except where Unix seconds are named.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

from msgspec import Struct, structs

from madang.traffic import inspect
from madang.traffic.account import CUT_OFF, Opened
from madang.traffic.budgets import Reserve
from madang.traffic.caches import apart
from madang.traffic.doors import ENGINE_PATHS
from madang.traffic.inspect import Reader
from madang.traffic.limits import Limits
from madang.traffic.price import MICRO, cost_micro
from madang.traffic.prompt import Prompt
from madang.traffic.refusal import OVERLOADED, Headers, Refusal, from_engine, unavailable
from madang.traffic.requests import Request
from madang.traffic.retold import Retold
from madang.traffic.route import Router
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


class Admitted(Struct, frozen=True):
    """A request that may be served."""

    id: str
    key: Key
    endpoint: Endpoint
    request: Request
    prompt: Prompt | None = None
    """What decides where it goes; None: its replicas' load alone."""
    readers: tuple[Reader, ...] = ()
    """Who inspects its answer."""


Names = tuple[tuple[bytes, bytes], ...]
Begun = Callable[["Exchange", float], None]


class Exchange:
    """The state of one admitted request."""

    def __init__(
        self, admitted: Admitted, router: Router, limits: Limits, now: float,
        begun: Begun | None = None,
    ) -> None:  # fmt: skip
        """`begun` is told when its prompt was read: its replica may be sent another."""
        self._begun, self._endpoint = begun, admitted.endpoint
        self.id = admitted.id
        """What the answer, the engine's log and the usage record have in common."""
        self.key = admitted.key
        """Who asks, as it was when the request came."""
        self.tenant = admitted.key.project
        """Whose share of the endpoint it takes: the project of its key."""
        self.place: Place = (admitted.endpoint.project, admitted.endpoint.name)
        """The endpoint that is asked."""
        self.request = request = admitted.request
        """What is asked, as it was checked."""
        self.model = request.model
        """The endpoint's name as the application said it."""
        self.kind = request.kind
        """What is asked of it."""
        self.body_bytes = request.body_bytes
        """What it weighs while it waits."""
        self.prompt_tokens = request.prompt_tokens
        """What is to be read, as estimated."""
        self.is_batch = request.is_batch
        """Whether it may wait for all that isn't."""
        self._prompt, self._readers = admitted.prompt or Prompt(), admitted.readers
        self._router, self._limits = router, limits
        self._began = self._held_at = now
        self._attempts, self._blamed = 0, False
        self._target: Target | None = None
        self._replica, self._engine_status = "", 0
        self._names: Names = ()
        """How the replica may call itself in an answer, and what is said instead."""
        self._first_byte_s: float | None = None
        self._events = EventStream(self.request.wants_usage, limits.event_bytes_max)
        self._inspected = False
        self._retold = Retold(self.id, self.model, request.told) if request.told else None
        self._body: bytes | bytearray = b""
        self._tokens: Tokens | None = None
        self.deadline = now + limits.first_byte_s
        """When whoever has to act next has taken too long."""
        self.client_turn = False
        """True while that is the client, who has to take what it was sent."""
        self.reserve: Reserve | None = None
        """What it has of the budgets it counts for; None: nothing, or no more."""
        self.micro = 0
        """What it has cost, in millionths of a won; known once it is settled."""
        self.headers: Headers = []
        """What a good answer tells of these."""

    @property
    def project(self) -> str:
        """Whose endpoint is asked."""
        return self._endpoint.project

    @property
    def price(self) -> Price | None:
        """What its tokens cost; None: nothing."""
        return self._endpoint.price

    @property
    def output_tokens_max(self) -> float:
        """So much may be written at most, as far as it says."""
        return self.request.output_tokens_max

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

    def choose(self, now: float) -> Target | Refusal | None:
        """Pick the replica to ask; None: wait for one; the refusal when there is none."""
        return self._choose(now, without="")

    def _choose(self, now: float, without: str) -> Target | Refusal | None:
        targets = self._endpoint.targets
        target = self._router.take(targets, now, without, self._prompt)
        is_held = self.is_held and not targets
        if target is None and (is_held or self._router.may_wait(targets, now, without)):
            return None
        if target is None:
            wait_s = max(1, round(self._router.wait_s(targets, now)))
            model = self.model
            return unavailable("no_replica", "gateway.no-replica", wait_s, model=model)
        self._attempts += 1
        self._target = target
        self.deadline = now + self._limits.first_byte_s
        return target

    def upstream(self, target: Target) -> tuple[str, bytes]:
        """Return the address and body to send to a replica; from now on it counts as asked."""
        self._replica = target.uid
        self._names = _names(target.uid, self.model)
        kind, endpoint = self.request.kind, self._endpoint
        more = apart(kind, endpoint, self.key) if endpoint.cache else b""
        return target.url + ENGINE_PATHS[kind], self.request.encode(target.uid, more)

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
        other = self._choose(now, without=target.uid)
        return self._choose(now, "") if fault == "lost" and isinstance(other, Refusal) else other

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
        self._hear(now)
        if status == 503:
            return "busy"
        if status == 200 and not content_type.startswith(self._wanted_type):
            return "garbled"
        if 200 < status < 500:
            self._praise()
        self._engine_status = status
        self.deadline = now + self._limits.first_byte_s
        return None

    @property
    def _wanted_type(self) -> str:
        return "text/event-stream" if self.request.stream else "application/json"

    def _hear(self, now: float) -> None:
        if self._target:
            self._router.answers(self._prompt, now)

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
        self._note_first_byte(now)
        began = self._events.pieces
        try:
            passed = self._inspect(self._events.feed(data), self._events.done)
            if isinstance(passed, Refusal):
                return passed
            if self._retold:
                passed = self._retold.feed(passed)
        except OverflowError:
            return ANSWER_TOO_LARGE
        except ValueError:
            return self._garbled(now)
        if passed and not began:
            self._praise()
        self.client_turn = bool(passed)
        self.deadline = now + (self._limits.client_s if passed else self._limits.gap_s)
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
        self._praise()
        try:
            passed = self._inspect(body, last=True)
            if isinstance(passed, Refusal):
                return passed
            return self._retold.whole(passed) if self._retold else self._rename(passed)
        except ValueError:
            return self._garbled(now)

    def _inspect(self, data: bytes, last: bool) -> bytes | Refusal:
        """Show a piece of the answer to those who read it, if there are any."""
        line = self._readers
        if not line or self._inspected or not (data or last):
            return data
        self._inspected = last
        return inspect.passed(line, data, last)

    def _garbled(self, now: float) -> Refusal:
        if self._target:
            self._blame(self._target, now)
        return Refusal(502, "engine_failed", "gateway.engine-garbled")

    def _note_first_byte(self, now: float) -> None:
        self._hear(now)
        if self._first_byte_s is None:
            self._first_byte_s = now - self._began
            if self._target and self._router.read(self._prompt, now) and self._begun:
                self._begun(self, now)

    def _rename(self, data: bytes) -> bytes:
        """Say the model's name as the application knows it; a replica's uid is ours alone.

        A quote inside a JSON string is escaped, so this never touches what a model wrote.
        """
        for theirs, ours in self._names:
            if theirs in data:
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
        usage = self._usage(CUT_OFF, now, at, Tokens(self.prompt_tokens, 0, 0))
        return Opened(usage, self.reserve.tokens if self.reserve else 0, self.price)

    def settle(self, status: int, now: float, at: float) -> Usage | None:
        """Close the account; None when no replica was ever asked. `at` is Unix seconds.

        Who left while a replica was at work pays for the prompt and what had passed by then.
        """
        worked = status == CLIENT_LEFT and self._target is not None
        self.free(now)
        if not self._replica:
            return None
        tokens = self._events.tokens or self._tokens
        served = worked or (self._first_byte_s is not None and self._engine_status == 200)
        counted = tokens or Tokens(self.prompt_tokens if served else 0, 0, self._events.pieces)
        self.micro = cost_micro(self.price, counted.prompt, counted.cached, counted.output)
        return self._usage(status, now, at, counted, served and tokens is None)

    def _usage(
        self, status: int, now: float, at: float, counted: Tokens, estimated: bool = False
    ) -> Usage:
        return Usage(
            id=self.id,
            at=at,
            key=self.key.name,
            project=self._endpoint.project,
            endpoint=self._endpoint.name,
            replica=self._replica,
            prompt_tokens=counted.prompt,
            cached_tokens=counted.cached,
            output_tokens=counted.output,
            status=status,
            duration_s=now - self._began,
            first_token_s=self._first_byte_s,
            estimated=estimated,
            key_uid=self.key.uid,
            payer=self.tenant,
            model=self._endpoint.model,
            krw=self.micro / MICRO,
        )
