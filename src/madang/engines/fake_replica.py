"""How a simulated replica is talked to: the key says which one it is."""

from __future__ import annotations

from typing import Any

from madang.engines.fake_server import Conversation, SimulatedScript


class SimulatedConversation(Conversation):
    """One connection to an engine: which one, its key says."""

    fleet: Any
    """All simulated nodes: `fake_fleet.Fleet`."""
    life: Any
    simulated: SimulatedScript

    def _may_ask(self) -> bool:
        """Find the engine with that key; raises ConnectionResetError where its node is gone."""
        token = str(self.headers.get("Authorization")).removeprefix("Bearer ")
        life = self.fleet.answering.get(token)
        if life is None or not isinstance(life.script, SimulatedScript):  # a drill has no key
            if token in self.fleet.ended:
                raise ConnectionResetError
            return False
        self.life = life
        self.script = self.simulated = life.script
        self._check()
        return True

    def _check(self) -> None:
        if self.simulated.is_over or self.life.node.is_away:
            raise ConnectionResetError

    def _pause(self, duration_s: float) -> None:
        super()._pause(duration_s)
        self._check()
