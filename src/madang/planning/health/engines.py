"""Why an engine is given up: how its process ended, or what shows that it hangs."""

from __future__ import annotations

from madang.planning.snapshot import Pulse
from madang.resources.resource import Reason
from madang.supervisor.protocol import Process

MISSES_MIN = 3
"""So many questions in a row must go wrong before an engine that was ready is given up."""
HALTED_S = 10.0
"""An engine stopped by a signal is given up after so long without a sign of life."""
MUTE_S = 30.0
"""One that neither answers nor works, after so long."""
MUTE_BUSY_S = 600.0
"""One that works, but answers neither control nor any gateway, after so long."""
STUCK_S = 120.0
"""One that has requests, does not work on them and sends nothing, after so long."""
SIGKILL = 9


def hung_reason(pulse: Pulse) -> Reason | None:
    """Say why an engine that was ready must be taken for lost; None for one that is only busy.

    Not answering is no proof: a full engine has no thread left for questions. It must also use
    no processor time, or be stopped as the kernel says, or give nobody a sign of life for so long
    that whoever waits has given up.
    """
    mute_s, idle_s = pulse.mute_s, pulse.idle_s
    if pulse.strange >= MISSES_MIN:
        return Reason(code="replica.wrong-identity", values={"detail": pulse.detail})
    if pulse.halted and pulse.misses and mute_s >= HALTED_S:
        return Reason(code="replica.halted", values={"seconds": int(mute_s)})
    is_mute = pulse.misses >= MISSES_MIN and (
        min(mute_s, idle_s) >= MUTE_S or mute_s >= MUTE_BUSY_S
    )
    is_stuck = min(pulse.quiet_s, idle_s) >= STUCK_S
    if is_mute or is_stuck:
        waited_s = int(mute_s if is_mute else pulse.quiet_s)
        return Reason(code="replica.hung", values={"seconds": waited_s})
    return None


def exit_reason(process: Process) -> Reason:
    """Say how a process ended."""
    code = process.exit_code or 0
    if code == -SIGKILL:
        return Reason(code="replica.out-of-memory", values={"signal": SIGKILL})
    if code < 0:
        return Reason(code="replica.killed", values={"signal": -code})
    return Reason(code="replica.exited", values={"exit_code": code})
