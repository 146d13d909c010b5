"""The fast loop as machine code, where somebody has built it from these very files: `make compile`.

The files are plain Python and run as they are; mypyc makes C of their types. What was built from
other files, for another Python or another machine is passed over, so nothing old ever runs.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from hashlib import sha256
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

MODULES = (
    "traffic.abreast", "traffic.admission", "traffic.budgets", "traffic.caches", "traffic.demand",
    "traffic.desk", "traffic.exchange", "traffic.fleet", "traffic.health", "traffic.hold",
    "traffic.joint", "traffic.lengths", "traffic.pace", "traffic.plain", "traffic.prefixes",
    "traffic.price", "traffic.prompt", "traffic.purse", "traffic.requests", "traffic.route",
    "traffic.share", "traffic.stream",
    "gateway.asked", "gateway.connection", "gateway.engines", "gateway.form",
    "gateway.outbox", "gateway.reply", "gateway.visit",
)  # fmt: skip
"""What each request passes, and holds no msgspec types that need to be made by their metaclass."""
SOURCES = Path(__file__).parent
WANTED = "MADANG_COMPILED"
"""`off`: as plain Python; `on`: or not at all; else: where it was built."""
_loaded: list[Path] = []


def place() -> Path:
    """Return the folder where a build from these files belongs, in this Python's environment.

    All files of both rooms count, and those beside the rooms: what is compiled relies on the types
    of what is not.
    """
    seen = sha256("\0".join((sys.version, platform.machine(), *MODULES)).encode())
    for folder in (SOURCES, SOURCES / "traffic", SOURCES / "gateway"):
        for file in sorted(folder.glob("*.py")):
            seen.update(file.read_bytes())
    return Path(sys.prefix) / "lib/madang-compiled" / seen.hexdigest()[:16]


def source(name: str) -> Path:
    """Return the file of one of the modules."""
    return SOURCES / f"{name.replace('.', '/')}.py"


def use(environ: Mapping[str, str] = os.environ) -> bool:
    """Have the modules, none of them loaded yet, come from the build; tell whether they do.

    Raises ImportError if that is demanded and there is none.
    """
    wanted = environ.get(WANTED, "").strip().lower()
    if wanted == "off":
        return False
    try:
        _load(place())
    except (ImportError, OSError):  # not there, or not for this machine
        if wanted == "on":
            raise ImportError("nothing was built from these files: make compile") from None
        return False
    return True


def is_used() -> bool:
    """Tell whether this process runs what was built."""
    return bool(_loaded)


def _load(folder: Path) -> None:
    """Load what all the modules share, and have each be found before its source."""
    suffix = EXTENSION_SUFFIXES[0]
    shared = next(folder.glob(f"*__mypyc{suffix}"), folder / "nothing")
    name = shared.name.removesuffix(suffix)
    spec = spec_from_file_location(name, shared)
    if spec is None or not shared.exists():
        raise ImportError(str(folder))
    sys.modules[name] = module_from_spec(spec)
    for room in sorted({name.partition(".")[0] for name in MODULES}):
        import_module(f"madang.{room}").__path__.insert(0, str(folder / "madang" / room))
    _loaded.append(folder)
