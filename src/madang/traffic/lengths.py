"""How long answers get: learnt from those that were, so that no more is reserved than is needed."""

from __future__ import annotations

from collections import deque

from madang.traffic.requests import Request
from madang.traffic.schema import Chat, Embedding

FIRST_TOKENS = 512
"""For an endpoint that has answered nothing yet and a request that names no bound."""
KEPT = 256
"""Answers remembered of an endpoint;"""
EVERY = 16
"""the percentile is taken again after so many more."""
PERCENT = 95

Place = tuple[str, str]


class _Answers:
    def __init__(self) -> None:
        self.tokens: deque[int] = deque(maxlen=KEPT)
        self.new = 0
        self.p95 = 0


class Lengths:
    """The 95th percentile of the tokens of answers, by endpoint."""

    def __init__(self) -> None:
        self._answers: dict[Place, _Answers] = {}

    def expect(self, place: Place, request: Request) -> int:
        """Return the output tokens to reserve: no more than the request allows, of each choice."""
        body = request.body
        if not isinstance(body, Chat) and isinstance(body, Embedding):
            return 0
        most, answers = body.max_tokens, self._answers.get(place)
        if answers is None or not answers.p95:
            expected = most or FIRST_TOKENS
        else:
            expected = answers.p95 if most is None else min(most, answers.p95)
        return expected * (body.n or 1)

    def learn(self, place: Place, tokens: int) -> None:
        """Note how long an answer was that came to its end."""
        answers = self._answers.get(place)
        if answers is None:
            answers = self._answers[place] = _Answers()
        answers.tokens.append(tokens)
        answers.new += 1
        if answers.new >= EVERY:
            answers.new = 0
            ranked = sorted(answers.tokens)
            answers.p95 = ranked[len(ranked) * PERCENT // 100]

    def keep(self, places: set[Place]) -> None:
        """Forget endpoints that are no more."""
        for place in self._answers.keys() - places:
            del self._answers[place]
