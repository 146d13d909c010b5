"""Make machine code of the fast loop, from its own files: what `make compile` runs.

It is built in a folder of its own and put into place at once, so that a gateway that starts
meanwhile finds all of it or nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mypyc.build import mypycify
from setuptools import Distribution

from madang import compiled

LEVEL = "2"
"""How hard the C compiler tries, of 0 to 3."""
TRIAL = "from madang import compiled; assert compiled.use({}); import madang.gateway.process"


def build(folder: Path) -> Path:
    """Compile in a folder; return where the outcome lies."""
    os.chdir(compiled.SOURCES.parent)
    files = [str(compiled.source(name).relative_to(Path.cwd())) for name in compiled.MODULES]
    kept = folder / "types"
    extensions = mypycify(
        [f"--cache-dir={kept}", *files], opt_level=LEVEL, target_dir=str(folder / "c")
    )
    made = Distribution({"name": "madang-compiled", "ext_modules": extensions})
    command = made.get_command_obj("build_ext")
    command.build_lib, command.build_temp = str(folder / "out"), str(folder / "objects")
    made.run_command("build_ext")
    return folder / "out"


def main() -> int:
    """Build unless it is there, and throw away what was built from other files."""
    place = compiled.place()
    if not place.is_dir():
        print("· machine code of the gateway's own files, in a minute or so", flush=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as folder:
            build(Path(folder)).rename(place)
        if subprocess.run([sys.executable, "-c", TRIAL], check=False).returncode:
            shutil.rmtree(place)
            print("It could not be loaded, and is thrown away: the gateway stays plain Python.")
            return 1
    for each in set(place.parent.iterdir()) - {place}:
        shutil.rmtree(each)
    return 0


if __name__ == "__main__":
    sys.exit(main())
