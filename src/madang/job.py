"""What a training program tells Madang and hears from it: one file, standard library only.

    from madang import job                       # or a copy of this file: import job

    run = job.start(total=400)
    state = load(run.resume_from) if run.resume_from else fresh()
    for step in run.steps():                     # goes on after the step that was resumed from
        loss = train(state)
        run.step(step, loss=loss)                # step number `step` is done
        if run.should_save(step):
            with run.checkpoint(step) as folder:
                save(state, folder)
        if run.agree(run.should_stop(), sum_over_ranks):
            …save as above; then run.leave()     # all ranks, after the same step
    run.done()

It reads its environment (RANK, WORLD_SIZE, MADANG_…). Outside of Madang it does the same and shows
progress on standard error. Telling never stops training: what can't be told is left out, with one
line of warning on standard error.

A step's number counts the steps that are done: they are 1 … total.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import math
import os
import shutil
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

FORM = 1
"""The form of a manifest that is written here, and the only one that is read."""
MANIFEST = "manifest.json"
MANIFEST_BYTES_MAX = 16 << 20
LEFT = 75
"""The exit status of a rank that saved and ended because it was asked to."""
LINES_PER_S = 4
"""Steps between two lines merge into the later one; first, last and checkpoint are always told."""
METRICS_MAX, NAME_LETTERS_MAX = 16, 64
"""With these no line is longer than a reader takes."""

_SHAPE = {"form": int, "job": str, "epoch": int, "step": int, "files": dict}
_LACKING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_LACKING_TEXT = tuple(f"os error {number}" for number in _LACKING)
_MISSING_TEXT = f"os error {errno.ENOENT}"
_APPEND = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def start(
    total: int = 0, *, save_every_steps: int = 0, environ: Mapping[str, str] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Run:  # fmt: skip
    """Return the run that this process is a rank of. Call it once, in the main thread.

    `total` is the number of steps in all, 0 where nobody knows; `save_every_steps` makes
    `should_save` say yes at its multiples. Inside of Madang, SIGTERM from now on means
    `should_stop`. Raises `ValueError` for a number in the environment that is none.
    """
    run = Run(total, save_every_steps, os.environ if environ is None else environ, clock)
    run.listen()
    return run


class Run:
    """One rank of one attempt of a job."""

    def __init__(
        self, total: int, save_every_steps: int, environ: Mapping[str, str],
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.total = total
        self.rank = _number(environ, "RANK", 0)
        self.ranks = _number(environ, "WORLD_SIZE", 1)
        self.uid = environ.get("MADANG_JOB_UID", "")
        """Which job this is; empty outside of Madang."""
        self.attempt = _number(environ, "MADANG_ATTEMPT", 0)
        self.checkpoints = Path(environ.get("MADANG_CHECKPOINTS") or "checkpoints")
        self.saved = ""
        """The name of the newest checkpoint that this rank has published; empty: none yet."""
        self._resume = environ.get("MADANG_RESUME_FROM", "")
        self._writer = environ.get("MADANG_RESUME_JOB", "")  # empty: this very job
        self._stop_file = environ.get("MADANG_STOP_FILE", "")
        self._every_s = _number(environ, "MADANG_CHECKPOINT_EVERY_S", 0)
        self._every_steps = save_every_steps
        self._clock, self._saved_at, self._told_at = clock, clock(), -math.inf
        self._asked = self._untold = False
        self._last, self._phase = -1, ""
        self._metrics: dict[str, float] = {}
        self._names: set[str] = set()
        self._warned: set[str] = set()
        path = environ.get("MADANG_PROGRESS", "")
        self._write = _File(path).write if path else _show if self.rank == 0 else lambda _body: None

    def listen(self) -> None:
        """Take SIGTERM as the wish to stop: inside of Madang, and in the main thread only."""
        if self.uid and threading.current_thread() is threading.main_thread():
            owner = os.getpid()

            def asked(number: int, _frame: object) -> None:
                if os.getpid() == owner:
                    self._asked = True
                else:  # a child that was forked: it ends as it would without us
                    signal.signal(number, signal.SIG_DFL)
                    os.kill(os.getpid(), number)

            signal.signal(signal.SIGTERM, asked)

    @cached_property
    def resume_from(self) -> Path | None:
        """The checkpoint to go on from, each of its files verified by hash; None: from the start.

        Control names it and has verified it. Should it have been damaged since, the newest good
        one before it is taken. Every rank that sees the same files comes to the same answer.
        """
        if not self._resume:
            return None
        for folder in _from_newest(Path(self._resume)):
            job, epoch = (self._writer, None) if self._writer else (self.uid, self.attempt)
            if not (fault := fault_of(folder, job, epoch)):
                return folder
            self._warn(str(folder), f"checkpoint {folder.name} is passed over: {fault}")
        return None

    @cached_property
    def resumed_step(self) -> int:
        """The step after which it goes on; 0: from the start."""
        return int(read_manifest(self.resume_from)["step"]) if self.resume_from else 0

    def steps(self) -> Iterator[int]:
        """Yield the numbers of the steps that are still to be done; without a total, forever."""
        first = self.resumed_step + 1
        return iter(range(first, self.total + 1)) if self.total else itertools.count(first)

    def step(self, step: int, /, **metrics: Any) -> None:
        """Tell that this step is done, and numbers about it: at most 16 names, the last value each.

        A number is what `float` takes, a tensor of one element too. Steps never go back: one that
        does, and a number that is none or not finite, is left out with a warning.
        """
        if step < self._last:
            self._warn("back", f"step {step} came after step {self._last}, and is not told")
            return
        first, self._last, self._untold = self._last < 0, step, True
        for name, value in metrics.items():
            self._measure(name[:NAME_LETTERS_MAX], value)
        if first or step == self.total or self._clock() - self._told_at >= 1 / LINES_PER_S:
            self.done()

    def _measure(self, name: str, value: Any) -> None:
        try:
            number = float(value)
        except (ArithmeticError, RuntimeError, TypeError, ValueError):  # a tensor of two: Runtime…
            number = math.nan
        if not math.isfinite(number):
            self._warn(name, f"{name} is {value!r:.60} at step {self._last}: no number to tell")
        elif name not in self._names and len(self._names) >= METRICS_MAX:
            self._warn("many", f"{name} is not told: {METRICS_MAX} numbers are told at most")
        else:
            self._names.add(name)
            self._metrics[name] = number

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Tell that something else than steps goes on: it counts as progress when it begins."""
        before, self._phase = self._phase, name
        self._tell({"phase": name[:NAME_LETTERS_MAX]})
        try:
            yield
        finally:
            self._phase = before
            self._tell({"phase": before})

    def leave(self) -> NoReturn:
        """End with the status that says: asked to, after a checkpoint. No rank may wait for it."""
        self.done()
        raise SystemExit(LEFT)

    def done(self) -> None:
        """Tell what has not been told yet: the program has done what it was for."""
        if not self._untold:
            return
        body: dict[str, Any] = {"step": self._last, **({"total": self.total} if self.total else {})}
        if self._metrics:
            body["metrics"] = self._metrics
        self._metrics, self._untold = {}, False
        self._tell(body)

    def _tell(self, body: Mapping[str, Any]) -> None:
        self.done()
        self._told_at = self._clock()
        try:
            self._write(body)
        except OSError as error:
            cause = error.strerror or str(error)
            self._warn("progress", f"progress can't be told, training goes on: {cause}")

    def _warn(self, about: str, text: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            _say(f"madang.job: {text}")

    def should_stop(self) -> bool:
        """Tell whether this rank was asked to save and end; the others may not know it: `agree`."""
        return self._asked or bool(self._stop_file and Path(self._stop_file).exists())

    def agree(self, flag: bool, add: Callable[[float], float]) -> bool:
        """Tell whether any rank has its flag up: the same answer on all, after the same step.

        `add` is a collective that every rank calls: it takes this rank's number and returns the
        sum over all. It may well carry the gradient along.
        """
        return add(float(flag)) > 0

    def should_save(self, step: int) -> bool:
        """Tell whether to save after this step: only rank 0 does.

        That is after the last step, at multiples of `save_every_steps`, and when as many seconds
        have gone by since the last one as Madang suggests (from what a checkpoint costs and how
        often hardware fails).
        """
        if self.rank:
            return False
        late = self._every_s and self._clock() - self._saved_at >= self._every_s
        multiple = self._every_steps and step % self._every_steps == 0
        return bool(late or multiple or step == self.total)

    def checkpoint(self, step: int) -> _Checkpoint:
        """Return what gives a new folder to write files into, and makes a checkpoint of it.

        One rank of a job uses it. All or nothing: files are hashed and on the disk before the
        manifest is, and the whole appears under its name at once. An error in the block leaves no
        trace. Where there is no room left, a warning is given and training goes on: `saved` tells
        what is there. Raises `ValueError` for a folder without files, or with anything else.
        """
        return _Checkpoint(self, step)

    def note(self, name: str, step: int, fault: object = None) -> None:
        """Tell of a checkpoint that was published, or warn that it could not be kept."""
        self._saved_at = self._clock()
        if fault is None:
            self.saved = name
            self._tell({"checkpoint": name, "step": step})
        else:
            _say(f"madang.job: no checkpoint {name}, training goes on without it: {fault}")


class _File:
    """The progress file: JSON lines, each by one write, so that writers never mix."""

    def __init__(self, path: str) -> None:
        self._path, self._descriptor, self._torn = path, -1, False

    def write(self, body: Mapping[str, Any]) -> None:
        """Append a line; if the file ends inside of one, begin anew first. Raises `OSError`."""
        text = json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        line = text.encode(errors="backslashreplace") + b"\n"
        if self._descriptor < 0:
            self._descriptor = os.open(self._path, _APPEND, 0o644)
            size = os.fstat(self._descriptor).st_size
            self._torn = size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"
        line = b"\n" + line if self._torn else line
        self._torn = (written := os.write(self._descriptor, line)) < len(line)
        if self._torn:
            raise OSError(errno.ENOSPC, f"only {written} bytes of a line were written")


def _show(body: Mapping[str, Any]) -> None:
    """Outside of Madang: say the same on standard error, for people."""
    if "checkpoint" in body:
        _say(f"checkpoint {body['checkpoint']}")
    elif "step" in body:
        numbers = [f"{name} {value:.4g}" for name, value in body.get("metrics", {}).items()]
        whole = f"/{body['total']}" if "total" in body else ""
        _say("  ".join([f"step {body['step']}{whole}", *numbers]))
    elif body["phase"]:
        _say(f"{body['phase']} …")


class _Checkpoint:
    """A folder that becomes a checkpoint when its block ends without an error."""

    def __init__(self, run: Run, step: int) -> None:
        self._run, self._step, self._name = run, step, f"step-{step:06d}"
        self._folder = run.checkpoints / f".new-{run.attempt}-{run.rank}-{self._name}"
        self._lacking, self._stack, self._began_at = False, ExitStack(), time.monotonic()

    def __enter__(self) -> Path:
        self._stack.enter_context(self._run.phase("checkpoint"))
        try:
            _sweep(self._run.checkpoints, self._run.attempt)
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
        except OSError as error:
            if not _is_lacking(error):
                self._stack.close()
                raise
            self._lacking = True  # the block can't be skipped: what it can't find is no fault of it
        return self._folder

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        published = False
        with self._stack:
            try:
                published = error is None and self._publish()
            except OSError as late:
                if not self._excuses(late):
                    raise
                error = late
            finally:
                shutil.rmtree(self._folder, ignore_errors=True)
            if published or self._excuses(error):
                self._run.note(self._name, self._step, error)
        return self._excuses(error)

    def _excuses(self, error: BaseException | None) -> bool:
        missing = isinstance(error, FileNotFoundError) or _MISSING_TEXT in str(error)
        return _is_lacking(error) or (self._lacking and missing)

    def _publish(self) -> bool:
        """Make it durable, whole, and known by its name: nothing of it is seen before."""
        run, place = self._run, self._run.checkpoints / self._name
        if _written_by(place)[0] not in {"", run.uid}:  # in a volume: it stays theirs
            self._name += f"-{run.uid[-8:]}"
            place = run.checkpoints / self._name
        if (epoch := _written_by(place)[1]) > run.attempt:
            run.note(self._name, self._step, f"attempt {epoch} wrote it, and this is {run.attempt}")
            return False
        body = {"form": FORM, "job": run.uid, "epoch": run.attempt, "step": self._step}
        body["files"], took_s = _settle(self._folder), time.monotonic() - self._began_at
        _write_manifest(self._folder, {**body, "write_s": round(took_s, 3)})
        if place.exists():
            aside = self._folder.with_name(f".old{self._folder.name[4:]}")
            shutil.rmtree(aside, ignore_errors=True)
            place.rename(aside)
            self._stack.callback(shutil.rmtree, aside, ignore_errors=True)
        self._folder.rename(place)
        _sync(run.checkpoints)
        return True


def fault_of(folder: Path, job: str = "", epoch: int | None = None) -> str:
    """Return what is wrong with a checkpoint; empty: it is whole, of this job, and not of later.

    Reads all of it. `job`: its uid, empty for any; `epoch`: the highest it may have.
    """
    try:
        manifest = read_manifest(folder)
        if job and manifest["job"] != job:
            return "it is of another job"
        if epoch is not None and manifest["epoch"] > epoch:
            return f"it is of attempt {manifest['epoch']}, and this is {epoch}"
        for name, file in manifest["files"].items():
            size, digest = _digest(folder, name)
            if (size, digest) != (file["bytes"], file["sha256"]):
                return f"{name} is not what was written"
    except OSError as error:
        return f"{Path(error.filename or folder).name}: {error.strerror}"
    except ValueError as error:
        return str(error)
    return ""


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint; raises `OSError`, and `ValueError` where it is none."""
    found = None
    with _opened(folder / MANIFEST) as descriptor:
        if os.fstat(descriptor).st_size > MANIFEST_BYTES_MAX:
            raise ValueError("its manifest is too long")
        with suppress(RecursionError):
            found = json.loads(os.read(descriptor, MANIFEST_BYTES_MAX))
    if not isinstance(found, dict) or any(type(found.get(k)) is not v for k, v in _SHAPE.items()):
        raise ValueError("its manifest is none")
    if found["form"] != FORM:
        raise ValueError(f"its manifest has form {found['form']}, and only {FORM} is read")
    files = found["files"].values()
    if not all(isinstance(file, dict) and {"bytes", "sha256"} <= file.keys() for file in files):
        raise ValueError("its manifest names files without their hash")
    return found


def _from_newest(named: Path) -> Iterator[Path]:
    """Yield the checkpoint that was named, and then those beside it that are older."""
    yield named
    limit = math.inf if _step(named) < 0 else _step(named)
    older = [path for path in named.parent.glob("step-*") if 0 <= _step(path) < limit]
    yield from sorted(older, key=_step, reverse=True)


def _step(folder: Path) -> int:
    """Return the step that a folder's name says; -1: it is not of a checkpoint."""
    head, number, *_ = f"{folder.name}-".split("-")
    return int(number) if head == "step" and number.isascii() and number.isdigit() else -1


def _written_by(folder: Path) -> tuple[str, int]:
    """Return the job and the attempt that wrote a checkpoint; -1: there is none."""
    with suppress(OSError, ValueError):
        manifest = read_manifest(folder)
        return str(manifest["job"]), int(manifest["epoch"])
    return "", -1


def _sweep(checkpoints: Path, attempt: int) -> None:
    """Remove what attempts before this one have left half-made."""
    for folder in checkpoints.glob(".[no][el][wd]-*"):
        epoch = folder.name.split("-")[1]
        if epoch.isdigit() and int(epoch) < attempt:
            shutil.rmtree(folder, ignore_errors=True)


def _settle(root: Path) -> dict[str, dict[str, Any]]:
    """Bring all files below to the disk, readable by Madang; return the hash and size of each."""
    files: dict[str, dict[str, Any]] = {}
    for folder, _, names in os.walk(root, topdown=False):
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_symlink() or not path.is_file():
                raise ValueError(f"a checkpoint holds files only, and {name} is none")
            path.chmod(0o644)
            _sync(path)
            said = path.relative_to(root).as_posix()
            size, digest = _digest(root, said)
            files[said] = {"sha256": digest, "bytes": size}
        Path(folder).chmod(0o755)
        _sync(Path(folder))
    if not files or MANIFEST in files:
        raise ValueError(f"a checkpoint holds files, and none of them is {MANIFEST}")
    return files


def _write_manifest(folder: Path, body: Mapping[str, Any]) -> None:
    path = folder / f"{MANIFEST}.new"
    path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    path.chmod(0o644)
    _sync(path)
    path.rename(folder / MANIFEST)
    _sync(folder)


def _digest(root: Path, name: str) -> tuple[int, str]:
    """Return size and SHA-256 of a file, as read from it; raises for what lies elsewhere."""
    path = root / name
    if path.parent.resolve() != root.resolve() and root.resolve() not in path.resolve().parents:
        raise ValueError(f"{name} is not in the checkpoint")
    found, size = hashlib.sha256(), 0
    with _opened(path) as descriptor:
        while piece := os.read(descriptor, 1 << 20):
            found.update(piece)
            size += len(piece)
    return size, found.hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a file or folder to read; a link, a pipe or a device is none. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.EINVAL, "not a file", str(path))
        yield descriptor
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    with _opened(path) as descriptor:
        os.fsync(descriptor)


def _is_lacking(error: BaseException | None) -> bool:
    """Tell whether there is no room left; libraries say it in their own errors, with its number."""
    if isinstance(error, OSError):
        return error.errno in _LACKING
    return error is not None and any(text in str(error) for text in _LACKING_TEXT)


def _number(environ: Mapping[str, str], name: str, otherwise: int) -> int:
    text = environ.get(name) or str(otherwise)
    try:
        return int(float(text))
    except (OverflowError, ValueError):
        raise ValueError(f"{name} is {text!r}, which is no number") from None


def _say(text: str) -> None:
    with suppress(OSError):
        os.write(2, f"{text}\n".encode(errors="backslashreplace"))
