"""Our gateway in the twin: all of `traffic`, from a request's bytes to its account.

Bodies are made of a trace's numbers: equal numbers, equal bytes. How many bytes a token has differs
by a quarter to both sides from conversation to conversation, and nobody is told; nor what engines
have cached. Where the gateway really has bounds for its memory and for patience the twin has none,
since the others that it is compared with have none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

from msgspec import json

from madang.traffic.desk import Desk
from madang.traffic.exchange import Exchange
from madang.traffic.limits import Limits
from madang.traffic.prompt import BYTES_PER_TOKEN
from madang.traffic.refusal import Refusal
from madang.traffic.table import Endpoint, Key, RouteTable, Target
from madang.twin.calls import BLOCK_TOKENS
from madang.twin.engines import ANSWERS_MAX, CACHE_BLOCKS, Call

LIMITS = Limits(
    held_per_slot=1 << 40, held_max=1 << 40, held_bytes_max=1 << 60, held_tokens_max=1 << 60,
    held_s=inf, suspect_s=inf,
)  # fmt: skip
KNUTH = 2_654_435_761
SPREAD = 0.25
SALT = 7
HEAD = b'{"messages":[{"role":"user","content":"'
TAIL = b'"}],"model":"org/own/m"'
ENDS = (b"}", b',"stream":true}')
FIRST = b'data: {"choices":[{"index":0,"delta":{"content":"."}}]}\n\n'

Send = Callable[[Call, int, float], None]
"""How a call is sent: to which replica, and when."""


@dataclass(frozen=True, slots=True)
class _Open:
    call: Call
    exchange: Exchange


class Door:
    """One gateway before all replicas."""

    def __init__(self, rates: Sequence[float], tenants: Sequence[str], send: Send) -> None:
        self._desk = Desk(LIMITS, salt=SALT)
        self._send = send
        self._now = 0.0
        self._open: dict[int, _Open] = {}
        self._keys = {name: Key(name, f"org/{name}", "member", name, "", may_infer=True)
                      for name in tenants}  # fmt: skip
        self._index = {f"r{index:05}": index for index in range(len(rates))}
        targets = tuple(
            Target(uid, 1, "http://twin", "", ANSWERS_MAX, kv_tokens=CACHE_BLOCKS * BLOCK_TOKENS)
            for uid in self._index
        )
        endpoint = Endpoint("org/own", "m", "m", targets, 1 << 31)
        self._desk.take(RouteTable(1, (endpoint,), self._keys))

    def come(self, call: Call, now: float) -> None:
        """Take a request in: it is sent somewhere, now or in its turn."""
        self._now = now
        key = self._keys[call.asked.tenant]
        body = body_of(call)
        exchange = self._desk.admit(f"{call.number}", key, "chat", body, now)
        assert isinstance(exchange, Exchange), exchange
        self._open[call.number] = _Open(call, exchange)
        choice = self._desk.start(exchange, lambda choice: self._go(call, choice), now)
        if choice is not None:
            self._go(call, choice)

    def _go(self, call: Call, choice: Target | Refusal) -> None:
        assert isinstance(choice, Target), choice
        self._open[call.number].exchange.upstream(choice)
        self._send(call, self._index[choice.uid], self._now)

    def first(self, call: Call, now: float) -> None:
        """Pass the first token on, if the answer is a stream."""
        self._now = now
        if not call.is_streamed:
            return
        exchange = self._open[call.number].exchange
        exchange.answers(200, "text/event-stream", now)
        exchange.feed(FIRST, now)

    def end(self, call: Call, now: float) -> None:
        """Pass the last on, and settle the account."""
        self._now = now
        exchange, asked = self._open.pop(call.number).exchange, call.asked
        usage = {"prompt_tokens": asked.prompt, "completion_tokens": asked.output,
                 "prompt_tokens_details": {"cached_tokens": call.cached}}  # fmt: skip
        said = json.encode({"choices": [], "usage": usage})
        if call.is_streamed:
            exchange.feed(b"data: " + said + b"\n\ndata: [DONE]\n\n", now)
        else:
            exchange.answers(200, "application/json", now)
            exchange.collect(said, now)
            exchange.answer(now)
            self._desk.free(exchange, now)
        self._desk.settle(exchange, 200, now, now)


def body_of(call: Call) -> bytes:
    """Write the request of a call: as many blocks of bytes as of tokens, and what is its own."""
    asked, chain = call.asked, call.asked.chain
    width = BYTES_PER_TOKEN * (1 - SPREAD + 2 * SPREAD * fraction(chain[1] if chain[1:] else 0))
    size, own = int(BLOCK_TOKENS * width), asked.prompt - len(chain) * BLOCK_TOKENS
    parts = [_text(block, size) for block in chain]
    return b"".join([HEAD, *parts, _text(-1 - call.number, int(own * width)), TAIL,
                     ENDS[call.is_streamed]])  # fmt: skip


def fraction(number: int) -> float:
    """Return a part of one that looks drawn, the same for the same number."""
    return (number * KNUTH & 0xFFFF_FFFF) / 0x1_0000_0000


def _text(number: int, size: int) -> bytes:
    """Return bytes that stand for a number."""
    word = b"%x." % (number & 0xFFFF_FFFF_FFFF_FFFF)
    return (word * (size // len(word) + 1))[:size]
