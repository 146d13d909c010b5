"""`madang down`: everything of one home stops; what it knows stays on disk."""

from __future__ import annotations

from contextlib import suppress

from madang.cli import background
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import next_step, show_json, tell
from madang.client import Client
from madang.errors import MadangError

TURN_S = 60.0


def down(*, options: Options = DEFAULTS) -> None:
    """Stop everything of this home; models, services and keys stay for the next start."""
    home = options.place()
    stopped, processes = 0, 0
    if home.path.is_dir():
        with background.alone(home, TURN_S):
            with suppress(MadangError):
                told = Client(home=str(home.path)).status()
                served = [] if home.fleet.exists() else told["services"]  # simulated: no process
                replicas = sum(service["ready"] for service in served)
                processes = len(told["processes"]) + replicas
            stopped = background.stop(home)
    if options.json:
        show_json({"stopped": bool(stopped), "processes": processes, "home": str(home.path)})
    elif stopped:
        tell("down.stopped", home=str(home.path), processes=processes)
        next_step("next.down")
    else:
        tell("down.nothing", home=str(home.path))
