"""`madang get`: what there is, as columns, YAML or JSON, once or as it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from madang.answers import Resource
from madang.cli import output
from madang.cli.kinds import KINDS, kind_of, naming, thing
from madang.cli.logs import events
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import phase, power, reason, say, show_json, size, table, tell, token_price

Output = Literal["table", "yaml", "json"]
Cell = Callable[[Mapping[str, Any]], object]

_NAME: tuple[str, Cell] = ("column.name", lambda r: r["name"])
_PHASE: tuple[str, Cell] = ("column.phase", lambda r: phase(r["status"]["phase"]))
_REASON: tuple[str, Cell] = (
    "column.reason",
    lambda r: reason(r["status"].get("reason"), f"{r['kind']}/{r['name']}"),
)


def _spec(key: str) -> Cell:
    return lambda r: r["spec"][key]


def _labels(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))


def _moment(at: float | None) -> str:
    return output.moment(at) if at else ""


def _given(spec: Mapping[str, Any]) -> str:
    return spec.get("group") or phase(spec["guarantee"] if spec["shared"] else "whole")


def _newest(r: Mapping[str, Any]) -> Mapping[str, Any]:
    versions = r["status"]["versions"]
    return versions[-1] if versions else {}


def _all(spec: Mapping[str, Any]) -> int:
    accelerators: int = spec["capacity"] * spec["unit"]
    return accelerators


def _steps(status: Mapping[str, Any]) -> str:
    return str(status["step"]) if status["step"] >= 0 else ""


def _saved(status: Mapping[str, Any]) -> str:
    return status["checkpoints"][-1]["name"] if status["checkpoints"] else ""


def _hours(hours: float) -> str:
    return f"{hours:,.2f}" if hours else ""


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _used(limits: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(
        f"{each['what']} {_amount(each['used'])}/{_amount(each['most'])}"
        + (f" (< {each['resets']})" if each["resets"] else "")
        for each in limits
    )


def _limits(serving: Mapping[str, Any] | None) -> str:
    """Write what may be asked of models, as people set it."""
    set_ = ((name, most) for name, most in (serving or {}).items() if most is not None)
    return ", ".join(f"{name} {most:,}" for name, most in set_)


def _amount(amount: str | float) -> str:
    return amount if isinstance(amount, str) else f"{amount:,.10g}"


def _scale(scale: int | Mapping[str, Any]) -> str:
    """Write how many replicas a service is to have, a range as it may be written."""
    return str(scale) if isinstance(scale, int) else f"{scale['min']}..{scale['max']}"


def _jobs(r: Mapping[str, Any]) -> str:
    """Say why a job is where it is, or how many jobs of a sweep are where."""
    counts = ", ".join(f"{phase(name)} {count}" for name, count in r["status"]["counts"].items())
    return counts or str(_REASON[1](r))


COLUMNS: dict[str, Sequence[tuple[str, Cell]]] = {
    "service": (
        _NAME, _PHASE,
        ("column.ready", lambda r: f"{r['status']['ready']}/{_scale(r['spec']['scale'])}"),
        ("column.model", _spec("model")),
        ("column.revision", lambda r: r["status"]["revision"] or ""),
        ("column.token-price", lambda r: token_price(r["spec"], r["status"])),
        _REASON,
    ),
    "replica": (
        _NAME, _PHASE,
        ("column.node", lambda r: r["status"]["node"]),
        ("column.accelerators", lambda r: ", ".join(r["status"]["accelerators"])),
        ("column.memory", lambda r: size(r["status"]["memory_bytes"])),
        ("column.restarts", lambda r: r["status"]["restarts"] or ""),
        _REASON,
    ),
    "revision": (
        _NAME, _PHASE,
        ("column.model", lambda r: f"{r['spec']['model']}@{r['spec']['model_version']}"),
        ("column.recipe", _spec("recipe")),
        ("column.memory", lambda r: size(r["spec"]["memory_bytes"])),
        _REASON,
    ),
    "build": (
        _NAME,
        ("column.verdict", lambda r: phase(r["status"]["verdict"])),
        ("column.recipe", _spec("recipe")),
        ("column.accelerator", _spec("accelerator")),
        ("column.gate", lambda r: ", ".join(r["spec"]["gate"])),
        _REASON,
    ),
    "job": (
        _NAME, _PHASE,
        ("column.step", lambda r: _steps(r["status"])),
        ("column.attempt", lambda r: r["status"]["attempt"] or ""),
        ("column.nodes", _spec("nodes")),
        ("column.saved", lambda r: _saved(r["status"])),
        ("column.reason", _jobs),
    ),
    "attempt": (
        _NAME, _PHASE,
        ("column.outcome", lambda r: phase(r["status"]["outcome"] or "")),
        ("column.node", lambda r: ", ".join(p["node"] for p in r["status"]["places"])),
        ("column.step", lambda r: _steps(r["status"])),
        ("column.resumed", lambda r: r["spec"]["resume_from"]),
        _REASON,
    ),
    "model": (
        _NAME,
        ("column.version", lambda r: _newest(r).get("number", "")),
        ("column.format", lambda r: _newest(r).get("format", "")),
        ("column.size", lambda r: size(_newest(r).get("size_bytes", 0))),
        ("column.licence", lambda r: _newest(r).get("licence", "")),
        ("column.digest", lambda r: _newest(r).get("digest", "")[:19]),
        _REASON,
    ),
    "volume": (
        _NAME,
        ("column.used", lambda r: size(r["status"]["used_bytes"])),
        ("column.size", lambda r: size(r["spec"]["size"]) if r["spec"]["size"] else ""),
        ("column.files", lambda r: r["status"]["files"]),
        ("column.path", _spec("path")),
        ("column.project", lambda r: r["project"]),
    ),
    "secret": (
        _NAME,
        ("column.version", lambda r: r["status"]["version"]),
        ("column.project", lambda r: r["project"]),
    ),
    "node": (
        _NAME, _PHASE,
        ("column.pool", _spec("pool")),
        ("column.cores", lambda r: f"{r['status']['cores']:g}"),
        ("column.memory", lambda r: size(r["status"]["memory_bytes"])),
        ("column.sandbox", lambda r: phase("enclosed" if r["status"].get("encloses") else "bare")),
        ("column.labels", lambda r: _labels(r["spec"].get("labels", {}))),
        _REASON,
    ),
    "accelerator": (
        _NAME,
        ("column.node", _spec("node")),
        ("column.kind", _spec("accelerator")),
        ("column.memory", lambda r: size(r["spec"]["memory_bytes"])),
        ("column.given", lambda r: _given(r["spec"])),
        ("column.health", lambda r: phase(r["status"]["phase"])),
        ("column.serial", lambda r: r["status"]["serial"]),
        _REASON,
    ),
    "key": (
        _NAME,
        ("column.role", lambda r: phase(r["spec"]["role"])),
        ("column.where", lambda r: r["spec"].get("where") or "site"),
        ("column.scopes", lambda r: ", ".join(r["spec"].get("scopes", ()))),
        ("column.owner", lambda r: r["spec"].get("user", "")),
        ("column.project", _spec("home")),
        ("column.models", lambda r: ", ".join(r["spec"].get("models", ()))),
        ("column.expires", lambda r: _moment(r["spec"].get("expires_at"))),
        ("column.limits", lambda r: _limits(r["spec"].get("limits"))),
    ),
    "user": (
        ("column.name", lambda r: f"{r['project']}/{r['name']}"),
        ("column.title", _spec("title")),
        ("column.roles", lambda r: ", ".join(f"{w}: {n}" for w, n in r["spec"]["roles"].items())),
    ),
    "project": (
        ("column.name", lambda r: r["project"]), ("column.title", _spec("title")),
        ("column.hours", lambda r: _hours(r["status"]["accelerator_h"])),
        ("column.lost-hours", lambda r: _hours(r["status"]["lost_h"])),
        ("column.goodput", lambda r: _percent(r["status"]["goodput"])),
    ),
    "quota": (
        ("column.name", lambda r: r["project"]),
        ("column.used", lambda r: _used(r["status"]["used"])),
        ("column.limits", lambda r: _limits(r["spec"].get("serving"))),
    ),
    "round": (
        _NAME, _PHASE, ("column.kind", _spec("accelerator")),
        ("column.units", _spec("capacity")), ("column.accelerators", lambda r: _all(r["spec"])),
        ("column.closes", _spec("closes")), ("column.from", _spec("from")),
        ("column.until", _spec("until")), ("column.title", _spec("title")),
    ),
    "queue": (
        _NAME, ("column.capacity", lambda r: r["status"]["capacity"]),
        ("column.project", lambda r: r["of"]["project"]),
        ("column.weight", lambda r: f"{r['of']['weight']:g}"),
        ("column.guaranteed", lambda r: f"{r['of']['guaranteed']:g}"),
        ("column.entitled", lambda r: f"{r['of']['entitled']:.4g}"),
        ("column.held", lambda r: f"{r['of']['held']:g}"),
        ("column.waiting", lambda r: f"{r['of']['demand'] - r['of']['held']:.6g}"),
        ("column.short", lambda r: f"{100 * r['of']['shortfall']:.1f}"),
    ),
    "grant": (
        _NAME, _PHASE, ("column.kind", _spec("accelerator")),
        ("column.accelerators", lambda r: r["status"]["count"] or r["spec"]["count"]),
        ("column.from", _spec("from")),
        ("column.until", lambda r: r["status"]["until"] or r["spec"]["until"]),
        ("column.score", lambda r: r["status"]["score"] or ""),
        ("column.round", lambda r: r["spec"].get("round") or ""),
        ("column.project", lambda r: r["project"]),
    ),
    "organization": (_NAME, ("column.title", _spec("title"))),
    "endpoint": (_NAME, ("column.service", _spec("service"))),
    "site": (_NAME, ("column.title", _spec("title")), ("column.grade", _spec("grade"))),
    "pool": (_NAME, ("column.site", _spec("site")),
        ("column.draws", lambda r: power(r["status"]["power_kw"])),
        ("column.may-draw", lambda r: power(r["spec"]["power_kw_max"])),
        ("column.no-watts", lambda r: ", ".join(r["status"]["no_watts"]))),
}  # fmt: skip
"""Columns by kind; a kind without its own has a name and a project."""
_PLAIN = (_NAME, ("column.project", lambda r: r["project"]))


def get(
    kind: str,
    name: str | None = None,
    /,
    *,
    output: Annotated[Output, Parameter(name=("--output", "-o"))] = "table",
    watch: Annotated[bool, Parameter(name=("--watch", "-w"), negative=())] = False,
    every: Annotated[bool, Parameter(name="--all", negative=())] = False,
    options: Options = DEFAULTS,
) -> None:
    """Show everything of one kind, or one object (KIND NAME, or KIND/NAME).

    Parameters
    ----------
    kind
        service, replica, model, node, key, event, …
    name
        One object of that kind.
    output
        Columns, or whole objects as YAML or JSON.
    watch
        Go on showing what changes.
    every
        Also the single jobs of sweeps, which columns leave out.
    """
    if "/" in kind or name:
        kind, name = thing(kind, name, (*KINDS, "event"))
    kind = kind_of(kind, (*KINDS, "event"))
    form: Output = "json" if options.json else output
    if kind == "event":
        return events(follow=watch, options=replace(options, json=form == "json"))
    with options.client() as client:
        if watch:
            for change in client.watch(kind, name or ""):
                _show_change(change["resource"], change["gone"], form)
            return None
        if name:
            with naming(client, kind, name):
                show([client.get(kind, name)], form, is_one=True)
        else:
            found, is_whole = client.list(kind)["items"], every or form != "table"
            show([r for r in found if is_whole or not r["status"].get("owner")], form)
    return None


def show(found: Sequence[Resource], form: Output = "table", is_one: bool = False) -> None:
    """Print objects of one kind; `is_one`: as an object instead of a list."""
    if form == "json":
        show_json(found[0] if is_one else found)
    elif form == "yaml":
        say(_yaml(found[0] if is_one else found), end="")
    elif found:
        columns = COLUMNS.get(found[0]["kind"], _PLAIN)
        rows = [row for r in found for row in _rows(r)]
        table([code for code, _ in columns], [[cell(r) for _, cell in columns] for r in rows])
    else:
        tell("get.none")


def _rows(r: Resource) -> Iterator[Mapping[str, Any]]:
    """Give what is told in one row each: all of one, but of a queue each project."""
    if r["kind"] != "queue":
        yield r
        return
    for project, standing in r["status"]["projects"].items():
        yield {**r, "of": {"project": project, **standing}}


def _show_change(resource: Resource, gone: bool, form: Output) -> None:
    """Print one change: a line of JSON, a document of YAML, or its cells."""
    if form == "json":
        show_json({"gone": gone, "resource": resource}, one_line=True)
    elif form == "yaml":
        say(f"---\n{_yaml(resource)}", end="")
    elif gone:
        tell("get.gone", subject=f"{resource['kind']}/{resource['name']}")
    else:
        columns = COLUMNS.get(resource["kind"], _PLAIN)
        for row in _rows(resource):
            say("  ".join(text for _, cell in columns if (text := str(cell(row)))))


def _yaml(value: object) -> str:
    import yaml

    written: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    return written
