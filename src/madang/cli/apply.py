"""`madang apply`: YAML documents become what is wanted; what follows is shown before it is done."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from madang.cli.options import DEFAULTS, Options
from madang.cli.output import happening, next_step, show_json, tell
from madang.cli.progress import until_ready
from madang.client import Applied, Client
from madang.errors import Rejected
from madang.settings import BODY_BYTES_MAX


def apply(
    *,
    file: Annotated[str, Parameter(name=("--file", "-f"), allow_leading_hyphen=True)],
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    wait: Annotated[bool, Parameter(negative=())] = False,
    options: Options = DEFAULTS,
) -> None:
    """Make what the documents of a YAML file want; show first what changes, where and why.

    Parameters
    ----------
    file
        A YAML file of one or more documents; - reads the standard input.
    dry_run
        Only show.
    wait
        Return when the services are ready.
    """
    documents = read(file)
    with options.client() as client:
        planned = client.apply(documents, dry_run=True)
        if not options.json:
            _show(planned)
        if not dry_run:
            planned = client.apply(documents)
        services = _services(planned)
        if wait and not dry_run:
            for project, name in services:
                until_ready(Client(client.api, client.key, project=project), name)
    if options.json:
        show_json(planned)
    elif dry_run:
        next_step("next.apply", file=file)
    else:
        tell("apply.done", count=sum(c["what"] != "unchanged" for c in planned["changes"]))
        if services:
            next_step("next.explain", subject=f"service/{services[0][1]}")


def read(file: str) -> list[Any]:
    """Read the documents of a file; raises `Rejected` with the line of the first mistake."""
    import yaml

    content = _content(file)
    if len(content) > BODY_BYTES_MAX:
        raise Rejected("apply.too-large", file, limit_bytes=BODY_BYTES_MAX)
    try:
        documents = [d for d in yaml.safe_load_all(content) if d is not None]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        cause = getattr(error, "problem", None) or str(error)
        line = mark.line + 1 if mark else 0
        raise Rejected("apply.not-yaml", file, line=line, cause=cause) from error
    if not documents:
        raise Rejected("apply.empty", file)
    return documents


def _content(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read(BODY_BYTES_MAX + 1)
    try:
        with Path(file).open("rb") as opened:
            return opened.read(BODY_BYTES_MAX + 1)
    except OSError as error:
        raise Rejected("apply.unreadable", file, cause=error.strerror or str(error)) from error


def _show(planned: Applied) -> None:
    """Print what changes, and what follows from it with its reason."""
    for change in planned["changes"]:
        where = f" ({change['project']})" if change["project"] else ""
        tell(f"apply.{change['what']}", subject=f"{change['kind']}/{change['name']}{where}")
        for field in change["fields"]:
            print(f"      {field}")
    for follow in planned["follows"]:
        print("  ->", happening(follow["verb"], follow["subject"], follow["reason"]))


def _services(planned: Applied) -> Sequence[tuple[str, str]]:
    changes = planned["changes"]
    return [(c["project"], c["name"]) for c in changes if c["kind"] == "service"]
