"""Signs how far the audit records reach, in a second place, soon after each change."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Protocol

from madang.control.first import write_private
from madang.control.guard import guarded
from madang.control.world import World
from madang.errors import MadangError, Unavailable, Value
from madang.governance.chain import KEY_CHANGED
from madang.governance.heads import Head
from madang.resources.event import AuditRecord, Event
from madang.resources.rights import CONTROL, SETUP
from madang.settings import Home, Signing, audit_keys, kept_heads, kept_place, usual_heads

log = logging.getLogger("madang.control")

PAUSE_S = 1.0
"""Records of so long share one head: no more than these could be cut off unseen."""
AGAIN_S = 5.0
"""Pause after a head could not be written."""
WAIT_S = 60.0
PAGE = 1000


HEADS_MOVED = "audit.heads-moved"


class Sign(Protocol):
    """The key of this home."""

    @property
    def key(self) -> str:
        """The public one, in hex."""

    def sign(self, store: str, seq: int, digest: str, at: float) -> Head:
        """Return the signed head."""


class Heads(Protocol):
    """The second place."""

    @property
    def path(self) -> Path:
        """Where it is."""

    def append(self, head: Head) -> None:
        """Write one head durably; raises `Unavailable`."""

    def newest(self, store: str) -> Head | None:
        """Return the last head of that state."""


class Kept:
    """What the home remembers of earlier lives: which keys have signed, and where the heads lay."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def keys(self) -> tuple[Signing, ...]:
        """Return every public key, oldest first."""
        return audit_keys(self.home)

    def add_key(self, signing: Signing) -> None:
        """Write a key below the older ones; raises `Unavailable`."""
        lines = [f"{k.key} {k.seq} {k.at:.0f}\n" for k in (*self.keys(), signing)]
        _write(self.home.audit_public, "".join(lines))

    def place(self) -> Path:
        """Return where heads were last written."""
        return kept_heads(self.home)

    def store(self) -> str:
        """Return of which state heads were written there; empty: of none yet."""
        return kept_place(self.home)[1]

    def keep_place(self, path: Path, store: str) -> None:
        """Remember where heads of that state are written now; raises `Unavailable`."""
        chosen = "" if path == usual_heads(self.home) else str(path)
        if kept_place(self.home) != (chosen, store):
            _write(self.home.audit_place, f"{chosen}\n{store}\n")


def _write(path: Path, text: str) -> None:
    try:
        write_private(path, text)
    except OSError as error:
        cause = error.strerror or str(error)
        raise Unavailable("audit.unwritable", str(path), cause=cause) from error


class Notary:
    """Follows the audit records, and vouches for them."""

    def __init__(self, world: World, sign: Sign, heads: Heads, kept: Kept) -> None:
        self.world = world
        self.sign = sign
        self.heads = heads
        self.kept = kept
        self.fault: MadangError | None = None
        """Why the newest records are not vouched for; None while they are."""
        self.torn = 0
        """The head of an earlier life that the records no longer fit; 0: they fit."""
        self.is_begun_anew = False
        """Whether there were heads before, and none where they should be."""
        self._last: Head | None = None
        self._said: dict[str, AuditRecord] = {}
        """The last record of each change of key or place, as far as was read."""
        self._is_settled = False
        self._turn = asyncio.Lock()

    @property
    def is_vouching(self) -> bool:
        """Whether a head was signed, or taken up, in this life."""
        return self._last is not None

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            tick = self.world.tick
            try:
                await self.vouch()
                self.fault = None
            except MadangError as error:
                if self.fault is None or self.fault.code != error.code:
                    log.warning("the audit records are not vouched for: %s", error)
                self.fault = error
                await self.world.clock.sleep(AGAIN_S)
                continue
            await self.world.clock.sleep(PAUSE_S)
            await self.world.moved(tick, WAIT_S)

    async def vouch(self) -> None:
        """Sign a head for what is new; raises `Unavailable`."""
        async with self._turn:
            await self._vouch()

    async def _vouch(self) -> None:
        if self._last is None:
            self._last = await self._resume()
        start, digest = (self._last.seq, self._last.digest) if self._last else (0, "")
        seq, digest = await self._read(start, digest)
        if not self._is_settled:
            await self._settle(seq)
            seq, digest = await self._read(seq, digest)
            self._is_settled = True
        if seq > start:
            head = self.sign.sign(self.world.store.id, seq, digest, self.world.clock.now())
            await asyncio.to_thread(self.heads.append, head)
            self._last = head

    async def _read(self, seq: int, digest: str) -> tuple[int, str]:
        """Read on from a record to the newest; return that one's number and digest."""
        while page := await self.world.store.audit(CONTROL, seq, PAGE):
            seq, digest = page[-1].seq, page[-1].digest
            self._said |= {r.code: r for r in page if r.code in {KEY_CHANGED, HEADS_MOVED}}
        return seq, digest

    async def _settle(self, seq: int) -> None:
        """Put on record that another key signs than before, or that heads go to another place.

        First the record, then the file that remembers: a crash between is found by both.
        """
        store, path, known = self.world.store.id, self.heads.path, self.kept.keys()
        before = known[-1].key if known else self._last.key if self._last else ""
        if before and not known:
            self.kept.add_key(Signing(before, 1, self.world.clock.now()))
        if before not in {"", self.sign.key}:
            log.critical("audit.key is not the one of before: it was lost, or exchanged")
            seq = await self._tell(seq, KEY_CHANGED, before, self.sign.key)
        if before != self.sign.key:
            first = Signing(self.sign.key, seq if before else 1, self.world.clock.now())
            self.kept.add_key(first)
        moved = self._said.get(HEADS_MOVED)
        place = str(moved.values["after"]) if moved else str(self.kept.place())
        if before and place != str(path):
            log.warning("heads of the audit records go to %s now, no longer to %s", path, place)
            await self._tell(seq, HEADS_MOVED, place, str(path))
        elif self._last is None and not self.torn and self.kept.store() == store:
            log.critical("the signed heads in %s are gone, and are begun anew", path)
            self.is_begun_anew = True
        self.kept.keep_place(path, store)

    async def _tell(self, seq: int, code: str, before: str, after: str) -> int:
        """Write that down, unless an earlier life came so far; return the record's number."""
        values: dict[str, Value] = {"before": before, "after": after}
        said = self._said.get(code)
        if said is None or said.values != values:
            event = Event(
                at=self.world.clock.now(), actor=SETUP.actor, code=code, kind="site", name="site",
                values=values,
            )  # fmt: skip
            await self.world.commit(SETUP, events=[event])
            await self._read(seq, "")
        return self._said[code].seq

    async def _resume(self) -> Head | None:
        """Take up the newest head, and look whether the records still fit it."""
        head = await asyncio.to_thread(self.heads.newest, self.world.store.id)
        if head is None:
            return None
        page = await self.world.store.audit(CONTROL, head.seq - 1, 1)
        if page and (page[0].seq, page[0].digest) == (head.seq, head.digest):
            return head
        self.torn = head.seq
        log.critical(
            "the audit records do not fit head %d: they were changed or put back", head.seq
        )
        return None

    def require(self) -> None:
        """Raise `Unavailable` while a privileged act could not be vouched for."""
        if self.fault is not None:
            raise Unavailable("audit.refused", self.fault.code, cause=str(self.fault))


async def last_words(notary: Notary) -> None:
    """Sign what is still unsigned before control ends."""
    await guarded("audit", notary.vouch())
