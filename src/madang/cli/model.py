"""`madang model`: import models; list, show and remove them."""

from __future__ import annotations

import sys
from pathlib import Path

from cyclopts import App

from madang.cli.delete import take_down
from madang.cli.get import get
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import next_step, say_over, show_json, size, tell, word

model = App(name="model", help_format="plaintext")


@model.command
def add(name: str, source: str, /, *, options: Options = DEFAULTS) -> None:
    """Import a model file under a name; the same name again makes its next version.

    Parameters
    ----------
    name
        What services call it.
    source
        A path on the machine where Madang runs, or file:///…
    """
    place = source if "://" in source else str(Path(source).expanduser().absolute())
    shows = sys.stderr.isatty() and not options.json

    def progress(done: int, whole: int) -> None:
        if shows:
            told = word("model.progress", name=name, done=size(done), whole=size(whole))
            say_over(told, is_last=done >= whole)

    with options.client() as client:
        made = client.add_model(name, place, progress)
    if options.json:
        show_json(made)
        return
    newest = made["status"]["versions"][-1]
    facts = {"size": size(newest["size_bytes"]), "format": newest["format"]}
    tell("model.added", name=name, version=newest["number"], **facts)
    next_step("next.model", name=name)


@model.command
def ls(*, options: Options = DEFAULTS) -> None:
    """List the models of the project."""
    get("model", options=options)


@model.command
def show(name: str, /, *, options: Options = DEFAULTS) -> None:
    """Show one model with all its versions."""
    get("model", name, output="yaml", options=options)


@model.command
def rm(name: str, /, *, options: Options = DEFAULTS) -> None:
    """Remove a model that no service uses."""
    take_down("model", name, options)
