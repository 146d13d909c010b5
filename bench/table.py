"""One table over everything in bench/out; the rows that do not hold are in it too."""

from __future__ import annotations

import json

from rows import OUT


def main() -> None:
    """Print the table."""
    head = f"{'bench':<14}{'metric':<58}{'value':>10} {'unit':<5}{'floor':>9}{'target':>9}  holds"
    print(head + "\n" + "-" * len(head))
    for path in sorted(OUT.glob("*.json")):
        for row in json.loads(path.read_text()):
            limits = "".join(
                f"{'' if row[key] is None else row[key]!s:>9}" for key in ("floor", "target")
            )
            value = f"{row['value']:>10.4g} {row['unit']:<5}"
            verdict = "yes" if row["holds"] else "NO"
            print(f"{path.stem:<14}{row['metric']:<58}{value}{limits}  {verdict}")


if __name__ == "__main__":
    main()
