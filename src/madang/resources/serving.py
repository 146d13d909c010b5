"""What a key, a project or an organization may ask of models: limits of their own."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from madang.resources.resource import Frozen

LIMIT_MAX = 10**12

Limit = Annotated[int, Field(ge=0, le=LIMIT_MAX, strict=True)]


class Serving(Frozen):
    """What all that is asked by one may come to; None, or not named: as much as there is."""

    requests_per_minute: Limit | None = None
    """In any 60 seconds."""
    tokens_per_minute: Limit | None = None
    """Of prompts and answers; a request counts for what it may use until it has been answered."""
    concurrent: Limit | None = None
    """Requests under way or waiting."""
    tokens_per_day: Limit | None = None
    """In a day of Korea."""
    krw_per_month: Limit | None = None
    """What the tokens of a month of Korea may cost, at the prices of their services."""

    def within(self, other: Serving) -> str:
        """Return the first limit that is wider here than there; empty: there is none.

        >>> Serving(concurrent=2).within(Serving(concurrent=4, tokens_per_day=1000))
        'tokens_per_day'
        """
        for name in Serving.model_fields:
            own, most = getattr(self, name), getattr(other, name)
            if most is not None and (own is None or own > most):
                return name
        return ""

    def beside(self, other: Serving) -> Serving:
        """Return these limits, and the other's where these name none."""
        own = self.model_dump(exclude_none=True)
        return Serving.model_validate(other.model_dump() | own)


UNBOUND = Serving()
