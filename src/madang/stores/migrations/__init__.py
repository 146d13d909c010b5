"""From an older state to this one. Alembic is loaded only when there is something to do."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, insert, update

from madang.stores.tables import alembic_version, metadata

SCRIPTS = Path(__file__).parent
VERSIONS: tuple[str, ...] = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008")
"""Every version of the tables there ever was, oldest first; the last is `tables.metadata`."""


def make(connection: Connection) -> None:
    """Make the tables of this version where there are none, in the open transaction."""
    metadata.create_all(connection)
    connection.execute(insert(alembic_version), {"version_num": VERSIONS[-1]})


def upgrade(
    connection: Connection, found: str | None, scripts: Path = SCRIPTS, to: str = "head"
) -> None:
    """Carry out every migration after `found` (None: from nothing), in the open transaction."""
    from alembic.operations import Operations  # noqa: PLC0415 - seldom needed, and heavy
    from alembic.runtime.migration import MigrationContext  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    steps = list(ScriptDirectory(str(scripts)).iterate_revisions(to, found or "base"))
    with Operations.context(MigrationContext.configure(connection)):
        for step in reversed(steps):
            step.module.upgrade()
    if steps:
        connection.execute(update(alembic_version), {"version_num": steps[0].revision})
