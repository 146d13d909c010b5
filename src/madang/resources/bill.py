"""What was used of models, as it is delivered and added up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

By = Literal["day", "model", "key"]


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a gateway's file of usage, in bytes; a file grows, and what is in it stays."""

    segment: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What one project used, and pays: on a day, of a model or by a key, as was asked."""

    project: str
    day: int = 0
    """Counted from 1970, in Seoul."""
    model: str = ""
    key: str = ""
    key_uid: str = ""
    requests: int
    estimated: int
    """Of these, so many whose tokens were counted as they passed."""
    prompt_tokens: int
    cached_tokens: int
    """A part of the prompt's."""
    output_tokens: int
    micro_krw: int
    """Millionths of a won."""
    micro_wh: int
    """Millionths of a watt hour, estimated; tokens of which nobody knows are left out."""
