"""`madang up`: from nothing to a model's answer; from something to the same, at once."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Annotated, NamedTuple, NoReturn

from cyclopts import Parameter

from madang import settings
from madang.answers import Message, Resource
from madang.app import parts
from madang.cli import background, first, fleet
from madang.cli.address import (
    Address,
    choose,
    keep_processes,
    keep_tls,
    last,
    loopback,
    tell_of_heads,
    tried_database,
    write,
)
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import next_step, note, phase, say, show_json, tell
from madang.cli.progress import until_ready
from madang.client import DEFAULT_PROJECT, Client
from madang.errors import Corrupt, MadangError, NotFound, Rejected, Unauthorized, Unavailable
from madang.settings import PORT_DEFAULT, Home

TURN_S = 1200.0
"""How long another `up` may work on the same home before this one gives up."""
READY_S = 60.0
ENDS_MAX = 2
"""A control that has ended so often for a reason it can name will not get ready by itself."""
ROUTE_S = 15.0
"""How long the gateway may take to learn of a service that is ready."""
QUESTION = "What is the capital of Korea?"
ANSWER_TOKENS_MAX = 48


class Answer(NamedTuple):
    """What the first service said, and how long its first token took."""

    text: str
    first_token_s: float


def up(
    *,
    host: str = "127.0.0.1",
    port: Annotated[int | None, Parameter(show_default=False)] = None,
    processes: Annotated[
        int | None, Parameter(name="--gateway-processes", show_default=False)
    ] = None,
    foreground: Annotated[bool, Parameter(negative=())] = False,
    simulated: Annotated[str | None, Parameter(name="--fleet", show_default=False)] = None,
    options: Options = DEFAULTS,
) -> None:
    """Start Madang here, and ask the first model one question.

    Parameters
    ----------
    host
        Where the API and the gateway listen; only this machine itself for now.
    port
        Port of the API, the gateway takes the next one; 0 for any [default: 7070].
    processes
        As how many processes, 1 to 16, the gateway runs; kept for the next time [default: 1].
    foreground
        Stay attached; Ctrl-C stops everything.
    simulated
        A file of nodes that are simulated, instead of this machine; a new home is made with it.
    """
    home = options.place()
    asked = None if port is None else settings.port(port)
    if processes is not None:
        processes = settings.processes(processes)
    host = loopback(host)
    with _stopped_after(home, foreground) as is_told:
        with _usable(home), background.alone(home, TURN_S):
            if simulated is not None:
                fleet.keep(home, simulated)
            if not (runs := bool(background.holder(home))):
                _make_ready(home)
            tell_of_heads(home, runs=runs)
            keep_tls(home, runs=runs)
            keep_processes(home, processes, runs=runs)
            with tried_database(home, runs=runs):
                pid = _ensure_running(home, host, asked)
            client = Client(home=str(home.path), project=DEFAULT_PROJECT)
            if not first.is_done(home):
                first.prepare(client, home)
        _present(client, home, options)
        if foreground:
            sys.stdout.flush()  # whoever reads a pipe wants it now, not at the end
            background.wait_for(pid, is_told)


def _ensure_running(home: Home, host: str, port: int | None) -> int:
    """Start what does not run, and wait until it takes work; return the supervisor's pid.

    Where no port was asked for and somebody took the one that was free a moment ago: on another.
    """
    try:
        return _run(home, host, port)
    except Unavailable as error:
        if port is not None or error.code != "control.port" or background.holder(home):
            raise
        return _run(home, host, port)


def _run(home: Home, host: str, port: int | None) -> int:
    where = last(home)
    pid = background.holder(home)
    began, is_new = parts.end_of_log(home, "control"), not pid
    if not pid:
        before, where = where, choose(host, port, where)
        if port is None and where != before and where.port != PORT_DEFAULT:
            note("up.other-port", port=where.port, default=PORT_DEFAULT)
        pid = _start(home, where)
    elif where is None:
        raise Unavailable("up.no-address", str(home.listen), pid=pid)
    elif port and port != where.port:
        raise Rejected("up.runs-elsewhere", where.api, port=port, running=where.port)
    door = Client(where.api, "-")
    deadline = time.monotonic() + READY_S
    while not (parts.has_opened(home) and door.is_ready()):
        told = parts.last_words(home, "control", began)
        if background.has_ended(pid) or time.monotonic() > deadline or len(told) >= ENDS_MAX:
            why = told[-1] if told else _not_ready(home)
            if is_new:  # nothing serves yet: leave nothing behind that only fails
                background.stop(home)
            raise why
        time.sleep(0.02)
    return pid


def _not_ready(home: Home) -> MadangError:
    log = parts.log_of(home, "control")
    return Unavailable("up.not-ready", str(log), cause=background.last_line(log))


def _make_ready(home: Home) -> None:
    """Look whether this Madang may start here, before anything of the home is changed."""
    from madang.app.upkeep import finish_restore, refuse_newer

    finish_restore(home)
    refuse_newer(home)


def _start(home: Home, where: Address) -> int:
    """Write down what is to be started and where, and start it; return the supervisor's pid."""
    from madang.app.plans import boot_plans

    if not (first.is_done(home) or fleet.kept(home)):
        first.fetch()
    note("up.starting-at", home=str(home.path))
    home.sockets.mkdir(mode=0o700, exist_ok=True)
    home.boot.write_text(json.dumps(boot_plans(home, *where)), encoding="utf-8")
    write(home, where)
    return background.start(home)


@contextmanager
def _usable(home: Home) -> Iterator[None]:
    """Make the home, all of it ours alone; turn what the file system says into one line."""
    mask = os.umask(0o077)
    try:
        home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield
    except OSError as error:
        cause = error.strerror or str(error)
        raise Rejected("up.home-unusable", str(home.path), cause=cause) from error
    finally:
        os.umask(mask)


@contextmanager
def _stopped_after(home: Home, attached: bool) -> Iterator[Callable[[], bool]]:
    """When attached, let Ctrl-C and SIGTERM end everything instead of only this command.

    Gives a function that tells whether one of them came: the interrupt that it raises may be
    lost where Python can't raise, in the middle of closing something.
    """
    told = False

    def tell_and_raise(number: int, frame: FrameType | None) -> NoReturn:
        nonlocal told
        told = True
        signal.default_int_handler(number, frame)

    if not attached:
        yield lambda: told
        return
    before = {n: signal.signal(n, tell_and_raise) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        with suppress(KeyboardInterrupt):
            yield lambda: told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if told:
        with background.alone(home, TURN_S):
            background.stop(home)
        note("up.stopped", home=str(home.path))


def _present(client: Client, home: Home, options: Options) -> None:
    """Ask the first service one question, and say where everything is."""
    where = {"api": client.api, "gateway": client.gateway, "home": str(home.path)}
    if not options.json:
        fleet.show(home)
    try:
        answer = _answer(client)
    except MadangError as error:
        if not options.json:
            _show_places(where, home)
        raise parts.has_ended(home, settings.GATEWAY) or error from error
    if options.json:
        told = {"first_token_s": answer and answer.first_token_s, "answer": answer and answer.text}
        simulated = fleet.summary(home)
        extra = {"simulated": simulated} if simulated else {}
        show_json({**where, "api_key": client.key, **told, **extra})
        return
    if answer:
        tell("up.answer", service=first.SERVICE, question=QUESTION, answer=answer.text)
        tell("up.first-token", seconds=answer.first_token_s)
    else:
        _show_services(client)
    _show_places(where, home)
    if answer:
        say(_curl(client, home))
        next_step("next.up")


def _answer(client: Client) -> Answer | None:
    """Return what the first service answers; None where the user has taken it away."""
    try:
        service = client.get("service", first.SERVICE)
    except NotFound:
        return None
    if service["deleted_at"] is not None or not service["spec"]["scale"]:
        return None
    until_ready(client, first.SERVICE)
    return _ask(client)


def _ask(client: Client) -> Answer:
    """Ask, and time the first token; a gateway may need a moment to learn of the service."""
    question = [Message(role="user", content=QUESTION)]
    deadline = time.monotonic() + ROUTE_S
    while True:
        began, first_token_s, pieces = time.monotonic(), 0.0, []
        try:
            for piece in client.chat(
                first.SERVICE, question, max_tokens=ANSWER_TOKENS_MAX, temperature=0
            ):
                first_token_s = first_token_s or time.monotonic() - began
                pieces.append(piece)
            if not pieces:
                raise Corrupt("up.no-token", f"service/{first.SERVICE}")
            return Answer("".join(pieces).strip(), round(first_token_s, 4))
        except (NotFound, Unauthorized, Unavailable):
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _show_services(client: Client) -> None:
    services: Sequence[Resource] = client.list("service")["items"]
    names = ", ".join(f"{s['name']} ({phase(s['status']['phase'])})" for s in services)
    if names:
        tell("up.services", services=names)
    else:
        tell("up.no-services")


def _show_places(where: Mapping[str, str], home: Home) -> None:
    tell("up.api", url=where["api"], docs=f"{where['api']}/docs")
    tell("up.gateway", url=where["gateway"])
    tell("up.key", path=str(home.admin_key))


def _curl(client: Client, home: Home) -> str:
    """Return a command that asks the same; it reads the key from its file."""
    body = {"model": first.SERVICE, "messages": [{"role": "user", "content": QUESTION}]}
    return (
        f"\n  curl {client.gateway}/chat/completions \\\n"
        f'    -H "Authorization: Bearer $(cat {shlex.quote(str(home.admin_key))})" \\\n'
        '    -H "Content-Type: application/json" \\\n'
        f"    -d {shlex.quote(json.dumps(body))}\n"
    )
