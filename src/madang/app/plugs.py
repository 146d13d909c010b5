"""Which adapters there are, and the secrets that some of them need."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import os
import platform
import subprocess
from typing import TYPE_CHECKING, Any

from madang import settings
from madang.errors import Corrupt, Unavailable
from madang.settings import Home

if TYPE_CHECKING:
    from madang.control.first import Hardware
    from madang.governance.heads import Signer

log = logging.getLogger("madang.control")

OWN = ".own"
"""Where control and gateway run, in a home whose nodes are all simulated."""
PROBE_S = 10.0
"""How long it may take to try whether a sandbox can be made."""
SECRET_CHARS_MIN = 32
"""A shorter secret is none: the file was damaged."""


def engines(home: Home) -> dict[str, Any]:
    """Return every engine by recipe; on simulated nodes the fake one stands for all others."""
    from madang.engines.fake import Fake
    from madang.engines.llamacpp import LlamaCpp

    if home.fleet.exists():
        return {"fake": Fake(formats=frozenset({"fake", "gguf"}))}
    return {engine.facts.name: engine for engine in (LlamaCpp(), Fake())}


def unenclosed(home: Home) -> tuple[str, bool]:
    """Say why jobs can't be started in sandboxes, and tell whether there with numbers of their own.

    Empty: they can. Ranks of simulated nodes are no processes.
    """
    from madang.registry.volumes import number_of

    if home.fleet.exists():
        return "", False
    if why := _unenclosed(0):
        log.warning("jobs run without a sandbox, for operators of the site only: %s", why)
        return why, False
    if os.geteuid() != 0:
        return "", False
    if why := _unenclosed(number_of("")):
        log.warning("jobs of all projects have the user number of Madang itself: %s", why)
    return "", not why


def _unenclosed(number: int) -> str:
    """Try to make a sandbox with that user number; return why that fails, or nothing."""
    from madang.supervisor.processes import confine
    from madang.supervisor.protocol import Sandbox
    from madang.supervisor.sandbox import probe

    def become() -> None:
        confine(Sandbox(uid=number))

    try:
        done = subprocess.run(
            probe(), capture_output=True, timeout=PROBE_S, check=False, preexec_fn=become
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    said = done.stderr.decode(errors="replace").strip()
    return (said or f"exit code {done.returncode}") if done.returncode else ""


def node_name() -> str:
    """Return what this machine is called, as a name of ours."""
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in platform.node().lower())
    return kept.strip("-")[:40].strip("-") or "node"


def hardware(home: Home) -> list[Hardware]:
    """Return the nodes of a home with what they have: this machine, or those of its fleet file."""
    from madang.accelerators.cpu import Cpu
    from madang.accelerators.nvidia import Nvidia
    from madang.control.first import Hardware
    from madang.launchers.simulated import SimulatedProbe
    from madang.resources.place import Grade

    return [
        Hardware(
            node["name"], SimulatedProbe(node).find(), site=node["site"], pool=node["pool"],
            grade=Grade(node.get("grade", Grade.OPEN)),
            labels=node["labels"], cores=node["cores"], memory_bytes=node["memory_bytes"],
        )
        for node in simulated_nodes(home)
    ] or [Hardware(node_name(), [*Cpu().find(), *Nvidia().find()])]  # fmt: skip


def simulated_nodes(home: Home) -> list[dict[str, Any]]:
    """Return the nodes of a home's fleet file; none where it has none."""
    try:
        body = json.loads(home.fleet.read_bytes())
        return list(body["nodes"])
    except FileNotFoundError:
        return []
    except (ValueError, LookupError, TypeError) as error:
        raise Corrupt("fleet.damaged", str(home.fleet), cause=str(error)) from error


def launchers(home: Home, term: int, store: str) -> dict[str, Any]:
    """Return where processes run, by node; first of all where Madang's own do.

    Beside simulated nodes that is no node, and has a name that none can have.
    """
    from madang.launchers.local import Local
    from madang.launchers.simulated import FleetLine, Simulated

    local = Local(home.sockets / "supervisor.sock", term, store=store)
    names = [node["name"] for node in simulated_nodes(home)]
    line = FleetLine(home.sockets / "fleet.sock", term, store=store)
    return {OWN if names else node_name(): local, **{n: Simulated(n, line) for n in names}}


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
