"""The one shape of a bench's result, and where it goes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

OUT = Path(__file__).parent / "out"


@dataclass(frozen=True)
class Row:
    """One figure. `holds`: true where the floor is met; a row without a floor always holds."""

    metric: str
    value: float
    unit: str
    floor: float | None = None
    target: float | None = None
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    lower_is_better: bool = True

    @property
    def holds(self) -> bool:
        """Tell whether the floor is met."""
        if self.floor is None:
            return True
        return self.value <= self.floor if self.lower_is_better else self.value >= self.floor


def write(name: str, rows: list[Row]) -> None:
    """Write and print the rows of one bench."""
    shown = []
    for row in rows:
        body = asdict(row)
        del body["lower_is_better"]
        shown.append({**body, "holds": row.holds})
    OUT.mkdir(exist_ok=True)
    (OUT / f"{name}.json").write_text(json.dumps(shown, indent=1) + "\n")
    print(json.dumps(shown, indent=1))
