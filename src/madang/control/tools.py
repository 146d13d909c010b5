"""What the hands of control work with: the ports, as far as they act."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from madang.control.thinking import outlook_apart
from madang.planning.forecast import Question
from madang.planning.placement.outlook import Outlook
from madang.ports import Blobs, Codes, Engine, Launcher, Member, Read, Saves, Secrets, Volumes
from madang.resources.revision import Check
from madang.supervisor.protocol import LaunchPlan
from madang.verify.subject import Subject

Judge = Callable[[Subject, Sequence[str]], Sequence[Check] | None]
"""(engine, gate) -> how each check went; None: no judgement was possible. Blocks, in a thread."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What the hands work with."""

    launchers: Mapping[str, Launcher]
    """By node."""
    engines: Mapping[str, Engine]
    """By recipe."""
    blobs: Blobs
    judge: Judge
    token: Callable[[str, int], str]
    """(uid, epoch) -> the key which that engine asks for."""
    program: Callable[[Member], LaunchPlan]
    """How the ranks of a gang are started on one node."""
    saves: Saves
    volumes: Volumes
    codes: Codes
    secrets: Secrets
    read: Read
    """Takes a model in that lies in a volume."""
    think: Callable[[Question], Outlook | None] = outlook_apart
    """Blocks, in a thread."""
