"""The form of a file that one Madang writes and another may read: a number in the file itself.

A file without a number has the first form. One of a higher form than is known here comes from a
newer Madang: that is no damage, and nobody who can't read it writes over it. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MARK = "form"
KNOWN = 1
"""The highest form that this Madang reads, and the one that it writes."""


def marked(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is to be written, with its form.

    >>> marked({"api": "x"})
    {'form': 1, 'api': 'x'}
    """
    return {MARK: KNOWN, **body}


def of(kept: object) -> int:
    """Return the form of what was read: a mapping, or an object with that field.

    >>> of({}), of({"form": 7}), of(["form"]), of({"form": "x"})
    (1, 7, 1, 1)
    """
    found = kept.get(MARK) if isinstance(kept, Mapping) else getattr(kept, MARK, None)
    return found if isinstance(found, int) else 1
