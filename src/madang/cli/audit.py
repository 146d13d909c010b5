"""`madang audit`: what people have changed, and the proof that nobody has changed that."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from madang import settings
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import happening, moment, note, say, show_json, tell, words
from madang.client import Client
from madang.errors import Rejected, Unavailable

audit = App(name="audit", help_format="plaintext")

NOT_PROVEN = 1
LINE_BYTES_MAX = 16 << 20
Where = Annotated[Path | None, Parameter(show_default=False)]


@audit.command
def ls(*, after: int = 0, limit: int = 200, options: Options = DEFAULTS) -> None:
    """List the audit records: who changed what, when.

    Parameters
    ----------
    after
        Only records with a higher number.
    limit
        At most so many.
    """
    with options.client() as client:
        found = client.audit(after, limit)["items"]
    if options.json:
        show_json(found)
        return
    for record in found:
        why = {"code": record["code"], "values": record["values"]}
        told = happening(record["code"], f"{record['kind']}/{record['name']}", why)
        at, actor, by = moment(record["at"]), record["actor"], record["by"] or "-"
        say(f"{record['seq']:>6}  {at}  {actor:<12}  {by:<20}  {record['project'] or '-'}  {told}")


@audit.command
def export(file: Path, /, *, options: Options = DEFAULTS) -> None:
    """Write every audit record to a file, one JSON object a line, to be verified anywhere.

    Parameters
    ----------
    file
        A new file; its first line says which state the records are of.
    """
    with options.client() as client:
        about, records = _served(client)
        count = 0
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise Rejected("audit.no-file", str(file), cause=error.strerror or "") from error
        with os.fdopen(descriptor, "w") as out:
            out.write(json.dumps(about) + "\n")
            for count, record in enumerate(records, 1):  # noqa: B007 - the last one counts
                out.write(json.dumps(record, ensure_ascii=False) + "\n")
            out.flush()
            os.fsync(out.fileno())
    if options.json:
        show_json({"file": str(file), **about, "records": count})
    else:
        tell("audit.exported", file=str(file), count=count)


@audit.command
def verify(
    *,
    records: Where = None,
    heads: Where = None,
    public_key: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = (),
    options: Options = DEFAULTS,
) -> int:
    """Prove that no audit record was changed, left out, put in, moved, cut off or put back.

    Parameters
    ----------
    records
        A file of `madang audit export` [default: ask the API].
    heads
        The signed heads of the second place [default: where this home keeps them].
    public_key
        The key that checks the heads, as the auditor was given it; where it was changed give each,
        oldest first [default: audit.pub of the home].
    """
    from madang.governance.chain import verify as prove
    from madang.governance.heads import HeadsFile
    from madang.resources.event import AuditRecord

    home = options.place()
    signed = HeadsFile(heads or settings.audit_heads(home)).all()
    keys = public_key or _public_keys(home)
    with ExitStack() as open_:
        about, found = (
            _exported(records) if records else _served(open_.enter_context(options.client()))
        )
        if about["where"]:
            raise Rejected("audit.not-whole", about["where"])
        store = about["store"]
        proof = prove(map(AuditRecord.model_validate, found), signed, store, keys)
    faults = [{"code": f.code, "values": f.values} for f in proof.faults]
    if options.json:
        counts = {"records": proof.records, "heads": proof.heads, "vouched": proof.vouched}
        signs = [{"from": seq, "key": key} for seq, key in proof.keys]
        show_json({"holds": proof.holds, "store": store, **counts, "keys": signs, "faults": faults})
    else:
        for fault in proof.faults:
            said = words(fault.code, fault.values)
            say(f"✗ {said.text}\n  {said.hint}")
        for seq, key in proof.keys[1:]:
            tell("audit.signs-from", seq=seq, key=key)
        code, key = "audit.holds" if proof.holds else "audit.broken", (keys[-1:] or ("-",))[0]
        tell(code, records=proof.records, heads=proof.heads, vouched=proof.vouched, key=key[:16])
    return 0 if proof.holds else NOT_PROVEN


def _public_keys(home: settings.Home) -> tuple[str, ...]:
    with suppress(OSError):
        if keys := tuple(signing.key for signing in settings.audit_keys(home)):
            return keys
    raise Rejected("audit.no-public-key", str(home.audit_public))


def _served(client: Client) -> tuple[dict[str, str], Iterator[Any]]:
    """Return of which state and place the records are, and every record, page by page."""
    first = client.audit(0)

    def every() -> Iterator[Any]:
        page = first["items"]
        while page:
            yield from page
            note("audit.progress", count=page[-1]["seq"])
            page = client.audit(page[-1]["seq"])["items"]

    return {"store": first["store"], "where": first["where"]}, every()


def _exported(path: Path) -> tuple[dict[str, str], Iterator[Any]]:
    """Return the same from a file of `export`."""
    try:
        lines = _lines(path)
        about = {name: str(value) for name, value in next(lines).items()}
        about = {"store": about["store"], "where": about.get("where", "")}
    except (StopIteration, KeyError, AttributeError) as error:
        raise Rejected("audit.not-exported", str(path)) from error
    return about, lines


def _lines(path: Path) -> Iterator[Any]:
    try:
        with path.open("rb") as file:
            while line := file.readline(LINE_BYTES_MAX):
                yield json.loads(line)
    except OSError as error:
        raise Unavailable("audit.unreadable", str(path), cause=error.strerror or "") from error
    except ValueError as error:
        raise Rejected("audit.not-exported", str(path)) from error
