"""`madang apply`: YAML documents become what is wanted; what follows is shown before it is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter

from madang.answers import Applied
from madang.cli.code import bring, send
from madang.cli.documents import Document, blame, read
from madang.cli.explain import filters
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import happening, next_step, reason, say, show_json, tell, word
from madang.cli.progress import until_ready
from madang.client import Client
from madang.errors import MadangError

WAITS = {"service.status": "service.pending"}
"""How it is told of a service that nothing can be started of."""


def apply(
    *,
    file: Annotated[str, Parameter(name=("--file", "-f"), allow_leading_hyphen=True)],
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    wait: Annotated[bool, Parameter(negative=())] = False,
    options: Options = DEFAULTS,
) -> None:
    """Make what YAML documents want, all of them or none; show first what changes and why.

    Parameters
    ----------
    file
        A YAML file of one or more documents, or a folder of such; - reads the standard input.
    dry_run
        Only show.
    wait
        Return when the services are ready.
    """
    documents, codes = bring(read(file))
    with options.client() as client:
        planned = _applied(client, documents, dry_run=True)
        if not options.json:
            _show(planned)
        if not dry_run:
            for project, code in codes:
                send(client, code, project)
            planned = _applied(client, documents, dry_run=False)
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


def _applied(client: Client, documents: Sequence[Document], dry_run: bool) -> Applied:
    try:
        return client.apply([document.value for document in documents], dry_run)
    except MadangError as error:
        blame(error, documents)
        raise


def _show(planned: Applied) -> None:
    """Print what changes, and what follows from it with its reason."""
    for change in planned["changes"]:
        where = f" ({change['project']})" if change["project"] else ""
        tell(f"apply.{change['what']}", subject=f"{change['kind']}/{change['name']}{where}")
        for field in change["fields"]:
            say(f"      {field}")
    for follow in planned["follows"]:
        verb = WAITS.get(follow["verb"], follow["verb"])
        say("  ->", happening(verb, follow["subject"], follow["reason"]))
        for line in filters(follow["reason"]["values"]):
            say(f"     {line}")
        if fix := follow["smallest_fix"]:
            say("     " + word("explain.fix", fix=reason(fix, follow["subject"])))


def _services(planned: Applied) -> Sequence[tuple[str, str]]:
    changes = planned["changes"]
    return [(c["project"], c["name"]) for c in changes if c["kind"] == "service"]
