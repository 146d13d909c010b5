"""Which adapters there are, and the secrets that some of them need."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import platform
from typing import TYPE_CHECKING, Any

from madang import settings
from madang.errors import Unavailable
from madang.settings import Home

if TYPE_CHECKING:
    from madang.governance.heads import Signer

log = logging.getLogger("madang.control")

SECRET_CHARS_MIN = 32
"""A shorter secret is none: the file was damaged."""


def engines() -> dict[str, Any]:
    """Return every engine by recipe."""
    from madang.engines.fake import Fake
    from madang.engines.llamacpp import LlamaCpp

    return {engine.facts.name: engine for engine in (LlamaCpp(), Fake())}


def node_name() -> str:
    """Return what this machine is called, as a name of ours."""
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in platform.node().lower())
    return kept.strip("-")[:40].strip("-") or "node"


def chosen_store(home: Home) -> Any:
    """Return the home's store: the database whose address it keeps, else its own state file."""
    url = settings.database_url(home)
    if url:
        from madang.stores.postgres import PostgresStore

        return PostgresStore(home, url)
    from madang.stores.sqlite import SqliteStore

    return SqliteStore(home)


def secret_of(home: Home) -> bytes:
    """Return what engine tokens are derived from, made at the first start.

    One that was lost or damaged is made anew: engines that have a key of the old one answer as
    strangers, and are replaced.
    """
    from madang.clocks import SystemRandom
    from madang.control.first import write_private

    with contextlib.suppress(FileNotFoundError):
        secret = home.secret.read_bytes().strip()
        if len(secret) >= SECRET_CHARS_MIN:
            return secret
        log.warning("%s is damaged and is made anew: every engine gets a new key", home.secret)
    write_private(home.secret, SystemRandom().token(32) + "\n")
    return home.secret.read_bytes().strip()


def signer_of(home: Home) -> Signer:
    """Return what signs heads of the audit records, its key made at the first start.

    One that was lost is made anew; `control.notary` says so, for the old one is still known.
    """
    from madang.clocks import SystemRandom
    from madang.control.first import write_private
    from madang.governance.heads import SEED_BYTES, Signer

    if not home.audit_key.exists():
        write_private(home.audit_key, SystemRandom().token(SEED_BYTES) + "\n")
    try:
        return Signer(bytes.fromhex(home.audit_key.read_text("ascii").strip()))
    except ValueError as error:
        raise Unavailable("audit.bad-key", str(home.audit_key), cause=str(error)) from error


def engine_token(secret: bytes, uid: str, epoch: int) -> str:
    """Return the key of one engine: derived, so that nobody has to keep it."""
    return hmac.new(secret, f"engine/{uid}/{epoch}".encode(), hashlib.sha256).hexdigest()
