"""`madang twin routing`: how soon first tokens would come, by each way to choose a replica."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from madang.answers import Json
from madang.cli.output import note, say_over, show_json, table, word
from madang.errors import Rejected

LOAD_LEAST, LOAD_MOST = 0.01, 100.0
HEAD = (
    "twin.head.policy", "twin.head.ttft-mean", "twin.head.ttft-p50", "twin.head.ttft-p99",
    "twin.head.soon", "twin.head.hits",
)  # fmt: skip
VICTIMS = ("victims_calm_ttft_mean_s", "victims_ttft_mean_s")
FLOOD_HEAD = ("twin.head.victims-calm", "twin.head.victims")


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be compared."""

    replicas: str = "8x8000"
    """How many, and how many tokens of prompts each reads in a second; 4x12000,4x4000 is mixed."""
    load: float = 1.0
    """How many times as fast as in the trace requests come."""
    unstreamed: float = 0.0
    """What part of the requests, 0 to 1, want their answer whole: of those the gateway hears
    nothing before the last token. The same requests each time."""
    policy: str = "madang,round-robin,least-request,sglang-like,llm-d-like"
    """Names, separated by commas. Ours is the gateway's own code; the others, those called -like
    above all, are our re-implementations of what was published."""


ASKED = Asked()


def routing(
    *, trace: Annotated[str, Parameter(allow_leading_hyphen=True)], asked: Asked = ASKED,
    flood: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:  # fmt: skip
    """Replay requests on replicas of one model, and say how soon each policy has them answered.

    Parameters
    ----------
    trace
        JSON lines: timestamp (ms), input_length, output_length, hash_ids; or CSV: TIMESTAMP,
        ContextTokens, GeneratedTokens. May be gzipped; - is standard input.
    flood
        Also let one more tenant ask for three quarters of all there is, for ten minutes, and say
        what those suffer who come meanwhile.
    json
        Print one JSON object by policy, and nothing else.
    """
    from madang.twin.calls import read_calls
    from madang.twin.routing import Yard, played, replicas_of
    from madang.twin.trace import opened

    if not LOAD_LEAST <= asked.load <= LOAD_MOST:
        raise Rejected("twin.out-of-bounds", subject="--load", least=LOAD_LEAST, most=LOAD_MOST)
    if not 0 <= asked.unstreamed <= 1:
        raise Rejected("twin.out-of-bounds", subject="--unstreamed", least=0, most=1)
    yard = Yard(replicas_of(asked.replicas), asked.load, asked.unstreamed)
    names = tuple(name.strip() for name in asked.policy.split(",") if name.strip())
    with opened(trace) as lines:
        calls = read_calls(lines, trace)
    answer = dict(played(calls, yard, names, flood, _tell))
    if json:
        show_json(answer)
    else:
        _show(answer, flood)


def _tell(name: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        text = word("twin.routing-progress", subject=name, done=done, total=total)
        say_over(text, is_last=False)


def _show(answer: Mapping[str, Json], flood: bool) -> None:
    if sys.stderr.isatty():
        say_over("", is_last=True)
    rows = [
        [
            name,
            f"{found['ttft_mean_s']:.2f}",
            f"{found['ttft_p50_s']:.2f}",
            f"{found['ttft_p99_s']:.1f}",
            f"{100 * found['under_5s']:.1f} %",
            f"{100 * found['hit_rate']:.1f} %",
            *(f"{found[key]:.2f}" for key in VICTIMS if flood),
        ]
        for name, found in answer.items()
    ]
    table(HEAD + (FLOOD_HEAD if flood else ()), rows)
    if any(found["re_implemented"] for found in answer.values()):
        note("twin.re-implemented")
