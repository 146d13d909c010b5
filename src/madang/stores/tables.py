"""The tables, as every database has them. Whoever changes them adds a migration."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    false,
    true,
)

metadata = MetaData()

_Serial = BigInteger().with_variant(Integer(), "sqlite")

resources = Table(
    "resources",
    metadata,
    Column("id", _Serial, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("uid", Text, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("resource_version", BigInteger, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("deleted_at", Float),
    Column("spec", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("gone", Boolean, nullable=False),
    Column("crc", BigInteger, nullable=False, server_default="0"),
)
"""One row per resource that lives, and one tombstone (`gone`) per resource that did."""

_living = resources.c.gone == false()
_gone = resources.c.gone == true()
Index(
    "resources_living",
    resources.c.kind,
    resources.c.project,
    resources.c.name,
    unique=True,
    sqlite_where=_living,
    postgresql_where=_living,
)
Index("resources_feed", resources.c.resource_version)
Index("resources_gone", resources.c.resource_version, sqlite_where=_gone, postgresql_where=_gone)

events = Table(
    "events",
    metadata,
    Column("seq", _Serial, primary_key=True),
    Column("at", Float, nullable=False),
    Column("actor", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("uid", Text, nullable=False),
    Column("values", Text, nullable=False),
    Column("crc", BigInteger, nullable=False, server_default="0"),
)
Index("events_of_project", events.c.project, events.c.seq)

audit = Table(
    "audit",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    Column("actor", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("uid", Text, nullable=False),
    Column("values", Text, nullable=False),
    Column("before", Text),
    Column("after", Text),
    Column("digest", Text, nullable=False),
)
"""What people have changed, in a chain of digests; never pruned."""

usage = Table(
    "usage",
    metadata,
    Column("id", Text, primary_key=True),
    Column("at", Float, nullable=False),
    Column("key", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("replica", Text, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("status", Integer, nullable=False),
    Column("duration_s", Float, nullable=False),
    Column("first_token_s", Float),
    Column("estimated", Boolean, nullable=False),
    Column("crc", BigInteger, nullable=False, server_default="0"),
    Column("key_uid", Text, nullable=False, server_default=""),
    Column("payer", Text, nullable=False, server_default=""),
    Column("model", Text, nullable=False, server_default=""),
    Column("micro_krw", BigInteger, nullable=False, server_default="0"),
    Column("day", Integer, nullable=False, server_default="0"),
    Column("taken", Integer, nullable=False, server_default="0"),
    Column("price", Text, nullable=False, server_default=""),
    Column("micro_wh", BigInteger, nullable=False, server_default="0"),
)
"""What was used is money. A record goes when it is old (`MADANG_USAGE_DAYS`); what it says stays in
the sums. `day`: counted from 1970, in Seoul. `micro_krw`: millionths of a won, whole, so that sums
are exact; `price`: by which, won per million input/cached/output tokens. `micro_wh`: millionths of
a watt hour. `taken`: the oldest day of which records were kept when this one came; it stays for
some days from then, however old it is, so that it is known if it comes again."""
Index("usage_by_day", usage.c.day)

usage_totals = Table(
    "usage_totals",
    metadata,
    Column("project", Text, primary_key=True),
    Column("endpoint", Text, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
)
"""Sums over `usage`, kept in the same transaction."""

spent = Table(
    "spent",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("what", Text, nullable=False),
    Column("period", BigInteger, nullable=False),
    Column("holder", Text, nullable=False),
    Column("gateway", Text, nullable=False),
    Column("born", BigInteger, nullable=False),
    Column("lent", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    Column("crc", BigInteger, nullable=False, server_default="0"),
)
"""What is spent of each budget in this period and the one before, and what gateways were lent."""

Index("spent_line", spent.c.owner, spent.c.what, spent.c.period)

usage_days = Table(
    "usage_days",
    metadata,
    Column("id", Text, primary_key=True),
    Column("day", Integer, nullable=False),
    Column("payer", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("key_uid", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("estimated", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("micro_krw", BigInteger, nullable=False),
    Column("crc", BigInteger, nullable=False, server_default="0"),
    Column("micro_wh", BigInteger, nullable=False, server_default="0"),
)
"""The bill: sums over `usage` by day, key and endpoint, kept in the same transaction, and for good.
Those of days long ago are put together by month, under its first day."""
Index("usage_days_of_payer", usage_days.c.payer, usage_days.c.day)
Index("usage_days_by_day", usage_days.c.day)

usage_marks = Table(
    "usage_marks",
    metadata,
    Column("segment", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("serial", BigInteger, nullable=False),
    Column("crc", BigInteger, nullable=False, server_default="0"),
)
"""How far each file of a gateway's usage has been taken in; those that came last are kept."""
Index("usage_marks_serial", usage_marks.c.serial)

replies = Table(
    "replies",
    metadata,
    Column("id", Text, primary_key=True),
    Column("asked", Text, nullable=False),
    Column("at", Float, nullable=False),
    Column("answer", Text, nullable=False),
    Column("crc", BigInteger, nullable=False, server_default="0"),
)
"""What requests with an Idempotency-Key were answered; kept for a day."""

Index("replies_at", replies.c.at)

meta = Table(
    "meta",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
    Column("crc", BigInteger, nullable=False, server_default="0"),
)
"""`term`: how often control has opened this state. `pruned`: the newest tombstone let go.
`store`: a random number that tells this state from every other."""

alembic_version = Table(
    "alembic_version", metadata, Column("version_num", String(32), primary_key=True)
)
"""One row: the migration that these tables correspond to."""
