"""How soon first tokens come by our gateway and by other rules, and what choosing costs.

`make bench-routing`. The decisions of our gateway on a virtual clock (`madang twin routing`), on
public traces. Others are our re-implementations of what they published. Ours was tried on
the first 40 minutes of the conversation trace, and what counts as equally fast on documents like
those made here; all else here was not looked at for that. A decision is timed beside a fixed loop,
so that a busy machine can be told.
"""

from __future__ import annotations

import random
import sys
import time
import tracemalloc
from dataclasses import replace
from math import log
from pathlib import Path

from madang.answers import Json
from madang.traffic.limits import Limits
from madang.traffic.prefixes import Prefixes
from madang.traffic.prompt import chain_of, prompt_of
from madang.traffic.route import Router
from madang.traffic.table import Target
from madang.twin.calls import Asked, read_calls
from madang.twin.routing import NAMES, Yard, played, replicas_of
from madang.twin.trace import opened
from rows import Row, write

TRACES = Path(__file__).parent / "traces" / "llm"
CONVERSATION = "mooncake_conversation.jsonl.gz"
TUNED_UNTIL_S = 2400.0
EQUAL, MIXED = replicas_of("8x8000"), replicas_of("4x12000,4x4000")
Ratios = dict[str, tuple[float | None, float | None]]
BY_LOAD: Ratios = {"least-request": (0.45, 0.36), "llm-d-like": (1.0, 0.90)}
BY_KIND: Ratios = {"least-request": (0.40, 0.30), "llm-d-like": (0.75, 0.63)}
ELSEWHERE: Ratios = {"least-request": (0.25, 0.17), "sglang-like": (0.80, 0.69),
                     "llm-d-like": (1.0, 0.90)}  # fmt: skip
"""Floor and target of our mean time to the first token over that of each."""
FLOOD = (3.0, 1.6)
DECISION_US, ENTRIES, TABLE_MB = (20.0, 10.0), 200_000, (24.0, 20.0)
BODY_BYTES, DECISIONS, ROUNDS = 8192, 2000, 7
AGENTS_SEED, DOCUMENTS_SEED = 5, 13
DOCUMENTS, AT_ONCE, ASKED_PER_S = 900, 60, 6.5


def trace(name: str) -> list[Asked]:
    """Read one of the traces."""
    with opened(str(TRACES / name)) as lines:
        return read_calls(lines, name)


def agents() -> list[Asked]:
    """Return requests of another law, made here: bursts of tools that call again and again.

    800 conversations in bursts of 20; each begins with one of 12 long texts that others begin
    with too, and grows with every turn; a turn comes 1 to 15 s after the one before.
    """
    draw = random.Random(AGENTS_SEED)
    found, fresh = [], 10_000
    for talk in range(800):
        since_s = (talk // 20) * 20.0 + draw.expovariate(1.0)
        text = talk % 12
        chain = list(range(100 * text + 1, 100 * text + 1 + 12 + text))
        for _ in range(draw.randint(4, 14)):
            more = draw.randint(1, 12)
            chain = [*chain, *range(fresh, fresh + more)]
            fresh += more
            prompt = 512 * len(chain) + draw.randint(0, 511)
            asked = Asked(since_s, prompt, draw.randint(20, 400), tuple(chain), f"t{talk % 20}")
            found.append(asked)
            since_s += draw.uniform(1, 15)
    return sorted(found, key=lambda each: each.came_s)


def documents() -> list[Asked]:
    """Return requests of a third law, made here: long texts, about each of which several ask.

    900 texts, two in five of them talks that begin with nothing and grow, the others of 24 or 45
    blocks; a question each 0.15 s on average, about one of 60 texts, until all of it was asked.
    """
    draw = random.Random(DOCUMENTS_SEED)

    def drawn(most: float, usual: float, spread: float) -> int:
        return int(min(most, draw.lognormvariate(log(usual), spread)))

    rest: list[tuple[int, int, float]] = []
    for _ in range(DOCUMENTS):
        kind = draw.random()
        size = 0 if kind < 0.4 else drawn(120, 24, 0.7) if kind < 0.75 else drawn(120, 45, 0.4)
        more = int(draw.expovariate(1 / 6 if kind >= 0.75 else 1 / 4))
        rest.append((size, min(20, 1 + more), 0.3 if size else 1.2))
    found, open_ones, fresh, at_s = list[Asked](), list[tuple[list[int], int, float, int]](), 1, 0.0
    while rest or open_ones:
        while rest and len(open_ones) < AT_ONCE:
            size, left, grows = rest.pop()
            open_ones.append((list(range(fresh, fresh + size)), left, grows, len(rest) % 20))
            fresh += size
        text, left, grows, tenant = open_ones.pop(draw.randrange(len(open_ones)))
        more = int(draw.expovariate(1 / grows))
        text = [*text, *range(fresh, fresh + more)]
        fresh += more
        at_s += draw.expovariate(ASKED_PER_S)
        prompt = 512 * len(text) + draw.randint(20, 511)
        found.append(Asked(at_s, prompt, drawn(1500, 100, 0.8), tuple(text), f"t{tenant}"))
        if left > 1:
            open_ones.append((text, left - 1, grows, tenant))
    return found


def compared(
    where: str, asked: list[Asked], yard: Yard, ratios: Ratios, names: tuple[str, ...] = NAMES
) -> list[Row]:  # fmt: skip
    """Replay one trace by all policies."""
    print(f"routing: {where}", file=sys.stderr, flush=True)
    found = dict(played(asked, yard, names, False, lambda *_: None))
    own: Json = found[NAMES[0]]
    rows = []
    for peer in names[1:]:
        floor, target = ratios.get(peer, (None, None))
        theirs, ours = found[peer]["ttft_mean_s"], own["ttft_mean_s"]
        rows.append(
            Row(f"{where}: mean time to the first token, of {peer}'s", round(ours / theirs, 3),
                "x", floor, target, peer, theirs, round(ours / theirs, 3))
        )  # fmt: skip
    rows += [
        Row(f"{where}: {key}", own[key], unit)
        for key, unit in (("ttft_mean_s", "s"), ("ttft_p99_s", "s"), ("under_5s", ""),
                          ("hit_rate", ""))
    ]  # fmt: skip
    return rows


def whole(asked: list[Asked]) -> list[Row]:
    """Replay what is not streamed, all or the half of it."""
    rows, names = [], NAMES[:1] + NAMES[2:]
    for part, called in ((1.0, "none"), (0.5, "half")):
        where = f"conversation x1.25, mixed, {called} streamed"
        rows += compared(where, asked, Yard(MIXED, 1.25, part), BY_KIND, names)
    where = "conversation x1.5, none streamed"
    return rows + compared(where, asked, Yard(EQUAL, 1.5, 1.0), BY_LOAD, names)


def flooded(asked: list[Asked]) -> list[Row]:
    """Replay a flood."""
    print("routing: flood", file=sys.stderr, flush=True)
    rows, yard = [], Yard(EQUAL)
    names = ("madang", "least-request", "llm-d-like")
    for name, found in played(asked, yard, names, True, lambda *_: None):
        ratio = found["victims_ttft_mean_s"] / found["victims_calm_ttft_mean_s"]
        floor, target = FLOOD if name == "madang" else (None, None)
        rows.append(
            Row(f"conversation, flood: mean of others over that without, {name}", round(ratio, 2),
                "x", floor, target, None if name == "madang" else name,
                found["victims_ttft_mean_s"])
        )  # fmt: skip
    return rows


def decision(replicas: int) -> tuple[float, float]:
    """Return the CPU µs of a decision, and the ns of a turn of the fixed loop beside it."""
    draw = random.Random(1)
    heads = [draw.randbytes(BODY_BYTES // 4) for _ in range(20)]
    rest = BODY_BYTES - BODY_BYTES // 4
    bodies = [draw.choice(heads) + draw.randbytes(rest) for _ in range(DECISIONS)]
    fleet = tuple(Target(f"r{n:02}", 1, "u", "t", 64, kv_tokens=1 << 20) for n in range(replicas))
    limits = Limits(slot_requests_max=1 << 30, unread_tokens_max=1e18)
    best, loop = 1e9, 1e9
    for _ in range(ROUNDS):
        router, began = Router(limits), time.process_time()
        for body in bodies:
            router.take(fleet, 0.0, "", prompt_of(body, 7, tells=True))
        best = min(best, (time.process_time() - began) / DECISIONS * 1e6)
        began, total = time.process_time(), 0
        for number in range(20_000):
            total += (number * 7) % 13
        loop = min(loop, (time.process_time() - began) / 20_000 * 1e9)
    return best, loop


def table_mb() -> float:
    """Return the MB of a full table of prefixes."""
    draw = random.Random(2)
    tracemalloc.start()
    table, chain = Prefixes(ENTRIES), list[int]()
    for number in range(ENTRIES * 2 // 8):
        chain = chain_of(draw.randbytes(BODY_BYTES), 7)
        table.note(chain, number % 64, 0, 1e9)
        if len(table) >= ENTRIES - 8:
            break
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used / 1e6


def main() -> None:
    """Measure all, and write it down."""
    talk = trace(CONVERSATION)
    late = [each for each in talk if each.came_s >= TUNED_UNTIL_S]
    late = [replace(each, came_s=each.came_s - late[0].came_s) for each in late]
    rows = [
        *compared("conversation x1.5", talk, Yard(EQUAL, 1.5), BY_LOAD),
        *compared("conversation x1.5, minutes 40 to 60", late, Yard(EQUAL, 1.5), BY_LOAD),
        *compared(
            "conversation x1.25, mixed", talk, Yard(MIXED, 1.25), BY_KIND, NAMES[:1] + NAMES[2:]
        ),
        *whole(talk),
        *flooded(talk),
        *compared("agents, made here", agents(), Yard(EQUAL), ELSEWHERE),
        *compared("documents, made here", documents(), Yard(EQUAL), ELSEWHERE),
    ]
    for name in ("azure2023_conv.csv.gz", "azure2023_code.csv.gz"):
        rows += compared(
            name.split(".")[0], trace(name), Yard(EQUAL[:2]), {"llm-d-like": (1.0, 0.9)}
        )
    for replicas in (2, 8, 64):
        took_us, loop_ns = decision(replicas)
        floor, target = DECISION_US if replicas == 64 else (None, None)
        what = (
            f"a decision at 8 KB, {replicas} replicas (a turn of the fixed loop: {loop_ns:.0f} ns)"
        )
        rows.append(Row(what, round(took_us, 1), "us", floor, target))
    rows.append(Row("a table of 200,000 prefixes", round(table_mb(), 1), "MB", *TABLE_MB))
    write("routing", rows)


if __name__ == "__main__":
    main()
