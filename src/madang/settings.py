"""Every setting, with its unit, default and bound; and where in the home each thing lies."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from madang.errors import Rejected, refuse_newer

PORT_DEFAULT = 7070
"""The control API's port; the gateway takes the next one."""
GATEWAY = "gateway"
"""What the gateway's process is called, or the first of them."""
CONTROL_SOCKET = "control.sock"
"""Where control listens for its own home, beside its port."""
DATABASE_SCHEMES = ("postgresql://", "postgres://")
"""How the address of a database begins."""

BODY_BYTES_MAX = 4 << 20
"""Largest request body that the control API and the gateway read."""

TURN_SECONDS_MAX = 5.0
"""The slow loop looks at the world at least this often."""

STALE_TABLE_S = 5.0
"""A gateway answers 401 to an unknown key only while its route table is fresher than this."""

GATEWAY_LEASE_S = 10.0
"""A gateway that has not asked for this long no longer holds back a replica's stop."""

BACKUP_AGE_S = 7 * 86400.0
"""`doctor` calls a home unwell whose last backup, or last drill, is older; MADANG_BACKUP_AGE."""

MOVES_PER_100 = 5
"""Of a hundred replicas that came last, how many may have come by a move; MADANG_MOVES_PER_100."""

FAIRNESS_BUDGET = 0.13
"""Of what it is entitled to, so much a project may go short of before all of it is guaranteed:
MADANG_FAIRNESS_BUDGET. Less is fairer, more has jobs end sooner in the mean."""

BUDGETS = 0.01, 0.5
"""The least that may be, and the most."""

JOBS_KEPT = 1000
"""Of each project, so many jobs that are over are kept, the newest; MADANG_JOBS_KEPT."""

USAGE_DAYS = 100
"""So many days each record of usage is kept, and then in its sums alone; MADANG_USAGE_DAYS."""

JOBS_MAX = 10_000
"""So many jobs a project may have, whatever has become of them."""

GATEWAY_PROCESSES_MAX = 16
"""The gateway is one process, or up to so many that share its port; MADANG_GATEWAY_PROCESSES."""

LOG_RING_BYTES = 4 << 20
"""Size of each of the two files that keep a process's output."""


@dataclass(frozen=True, slots=True)
class Home:
    """The one directory that holds all state; several homes may live on one machine."""

    path: Path

    @property
    def state(self) -> Path:
        """The store's database."""
        return self.path / "state.db"

    @property
    def database(self) -> Path:
        """The address of the store's PostgreSQL database, where there is one; mode 600."""
        return self.path / "database.url"

    @property
    def admin_key(self) -> Path:
        """The first operator's key, mode 600."""
        return self.path / "admin.key"

    @property
    def secret(self) -> Path:
        """What engine tokens are derived from, mode 600."""
        return self.path / "secret.key"

    @property
    def audit_key(self) -> Path:
        """What signs the heads of the audit records, mode 600."""
        return self.path / "audit.key"

    @property
    def audit_public(self) -> Path:
        """What checks those signatures, for auditors to keep: a key a line, the newest last."""
        return self.path / "audit.pub"

    @property
    def audit_place(self) -> Path:
        """Where signed heads lie, empty for the usual place; and of which state they are."""
        return self.path / "audit.heads"

    @property
    def tls(self) -> Path:
        """Where the gateway's certificate and key lie, one a line; absent: it speaks plain HTTP."""
        return self.path / "tls.files"

    @property
    def processes(self) -> Path:
        """How many processes the gateway is; absent: one."""
        return self.path / "gateway.processes"

    @property
    def listen(self) -> Path:
        """Host and port chosen by the last `up`."""
        return self.path / "listen.json"

    @property
    def sockets(self) -> Path:
        """UNIX sockets of supervisor and control."""
        return self.path / "run"

    @property
    def supervisor_lock(self) -> Path:
        """Held by the supervisor for life: decides who starts."""
        return self.path / "supervisor.lock"

    @property
    def control_lock(self) -> Path:
        """Held by control for life: one control per home."""
        return self.path / "control.lock"

    @property
    def up_lock(self) -> Path:
        """Held by an `up` or `down` while it works: they take turns."""
        return self.path / "up.lock"

    @property
    def boot(self) -> Path:
        """The LaunchPlans that the supervisor starts with."""
        return self.sockets / "boot.json"

    @property
    def first_run(self) -> Path:
        """There once the first model and service were made; never made twice."""
        return self.path / "first-run.json"

    @property
    def logs(self) -> Path:
        """One ring of two files per process."""
        return self.path / "logs"

    @property
    def blobs(self) -> Path:
        """Imported files, by digest."""
        return self.path / "blobs"

    @property
    def jobs(self) -> Path:
        """What jobs work on, by the uid of the job."""
        return self.path / "jobs"

    @property
    def volumes(self) -> Path:
        """What jobs keep beyond themselves, by the uid of the volume."""
        return self.path / "volumes"

    @property
    def secrets(self) -> Path:
        """Texts that jobs are given by name, sealed; no part of any backup."""
        return self.path / "secrets"

    @property
    def secrets_key(self) -> Path:
        """What opens them, mode 600; no part of any backup either."""
        return self.path / "secrets.key"

    @property
    def codes(self) -> Path:
        """Programs that were sent along with jobs, by project and digest."""
        return self.path / "codes"

    @property
    def backups(self) -> Path:
        """Copies of the store taken before each migration."""
        return self.path / "backups"

    @property
    def last_backup(self) -> Path:
        """When a backup was last kept, and when one was last tried."""
        return self.backups / "last.json"

    @property
    def gateway(self) -> Path:
        """The gateway's route table and usage spool."""
        return self.path / "gateway"

    @property
    def table(self) -> Path:
        """The route table that the gateway serves."""
        return self.gateway / "table.json"

    def table_of(self, uid: str) -> Path:
        """The route table that one process of the gateway serves."""
        return self.table if uid == GATEWAY else self.gateway / f"table-{uid}.json"

    @property
    def tables(self) -> tuple[Path, ...]:
        """The route tables of all processes of the gateway, those of earlier ones too."""
        return self.table, *sorted(self.gateway.glob("table-*.json"))

    @property
    def journal(self) -> Path:
        """What the supervisor has running."""
        return self.path / "supervisor" / "journal.json"

    @property
    def fleet(self) -> Path:
        """The simulated nodes of a home that was made with a fleet file; absent in any other."""
        return self.path / "fleet.json"

    @property
    def marked(self) -> tuple[Path, ...]:
        """Every file that bears its form, so that an older Madang knows that it can't read it."""
        return self.listen, self.first_run, self.journal, *self.tables, self.fleet


def home(given: str | None = None, environ: Mapping[str, str] = os.environ) -> Home:
    """Choose the home: the option, else MADANG_HOME, else the user's state directory.

    >>> home(None, {"MADANG_HOME": "/srv/madang"}).state
    PosixPath('/srv/madang/state.db')
    """
    chosen = given or environ.get("MADANG_HOME")
    if chosen:
        return Home(Path(chosen).expanduser().absolute())
    base = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Home(Path(base) / "madang")


def audit_heads(home: Home, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the second place: MADANG_AUDIT_HEADS, else what the home keeps.

    >>> audit_heads(Home(Path("/srv/madang")), {})
    PosixPath('/srv/madang.audit/heads.jsonl')
    """
    chosen = environ.get("MADANG_AUDIT_HEADS")
    return Path(chosen).expanduser().absolute() if chosen else kept_heads(home)


def kept_heads(home: Home) -> Path:
    """Return the second place that the home keeps; by default a folder beside it, not in it."""
    kept = kept_place(home)[0]
    return Path(kept) if kept else usual_heads(home)


def usual_heads(home: Home) -> Path:
    """Return the second place where none was chosen."""
    return home.path.with_name(home.path.name + ".audit") / "heads.jsonl"


def kept_place(home: Home) -> tuple[str, str]:
    """Return where heads were chosen to lie, and of which state some were written there."""
    try:
        lines = home.audit_place.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return "", ""
    place, store, *_ = (*lines, "", "")
    return place, store


class Signing(NamedTuple):
    """One key that signs, or signed, heads."""

    key: str
    """The public one, in hex."""
    seq: int
    """The record from which on it signs; 1 for the first."""
    at: float
    """Unix seconds of that."""


def audit_keys(home: Home) -> tuple[Signing, ...]:
    """Return every public key that has signed heads of this home, oldest first."""
    try:
        text = home.audit_public.read_text("ascii", errors="replace")
    except FileNotFoundError:
        return ()
    found = re.finditer(r"(?m)^([0-9a-f]{64})(?: (\d{1,16}) (\d{1,16}))?$", text)
    return tuple(Signing(each[1], int(each[2] or 1), float(each[3] or 0)) for each in found)


def login(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the file in which `madang login` keeps where to call, and with which key.

    >>> login({"XDG_CONFIG_HOME": "/srv/kim/.config"})
    PosixPath('/srv/kim/.config/madang/login.json')
    """
    base = environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "madang" / "login.json"


def database_url(home: Home) -> str:
    """Return the address that the home keeps; empty where the state is a file of its own."""
    try:
        return home.database.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def listening(home: Home) -> dict[str, str]:
    """Return where API and gateway listen, or listened last; empty where that can't be told.

    Raises `Corrupt` where a newer Madang has written it down.
    """
    try:
        said = json.loads(home.listen.read_bytes())
        refuse_newer(home.listen, said)
        return {name: str(said[name]) for name in ("api", "gateway")}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


def given_database_url(environ: Mapping[str, str] = os.environ) -> str:
    """Return what MADANG_DATABASE_URL says; raises `Rejected` for what is no address.

    >>> given_database_url({"MADANG_DATABASE_URL": "postgresql://db.example/madang"})
    'postgresql://db.example/madang'
    """
    url = environ.get("MADANG_DATABASE_URL", "").strip()
    if url and not (url.startswith(DATABASE_SCHEMES) and url.isprintable()):
        raise Rejected("setting.database-url")
    return url


def given_tls(environ: Mapping[str, str] = os.environ) -> tuple[str, ...] | None:
    """Return the files MADANG_GATEWAY_TLS_CERT and _KEY; none for `off`, None where not a word.

    Raises `Rejected` for one without the other.

    >>> given_tls({"MADANG_GATEWAY_TLS_CERT": "/a.pem", "MADANG_GATEWAY_TLS_KEY": "/a.key"})
    ('/a.pem', '/a.key')
    >>> given_tls({"MADANG_GATEWAY_TLS_CERT": "off"}), given_tls({})
    ((), None)
    """
    said = [environ.get(f"MADANG_GATEWAY_TLS_{each}", "").strip() for each in ("CERT", "KEY")]
    if not any(said):
        return None
    if said[0] == "off":
        return ()
    if not all(said) or not "".join(said).isprintable():
        raise Rejected("setting.tls")
    return tuple(str(Path(each).expanduser().absolute()) for each in said)


def tls_files(home: Home) -> tuple[Path, Path] | None:
    """Return the certificate and the key that the gateway is to show; None: plain HTTP.

    Raises `Rejected` where the file that says so is damaged: better no gateway than a bare one.
    """
    try:
        lines = home.tls.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    if len(lines) != 2:
        raise Rejected("setting.tls")
    return Path(lines[0]), Path(lines[1])


def processes(text: str | int) -> int:
    """Read how many processes the gateway is to be; raises `Rejected` for what is not 1 to 16.

    >>> processes("4")
    4
    """
    number = int(text) if re.fullmatch(r"[0-9]{1,2}", str(text)) else 0
    if not 1 <= number <= GATEWAY_PROCESSES_MAX:
        raise Rejected("setting.processes", processes=str(text), most=GATEWAY_PROCESSES_MAX)
    return number


def given_processes(environ: Mapping[str, str] = os.environ) -> int | None:
    """Return what MADANG_GATEWAY_PROCESSES says, 1 to 16; None where it says nothing."""
    given = environ.get("MADANG_GATEWAY_PROCESSES", "").strip()
    return processes(given) if given else None


def gateway_processes(home: Home) -> int:
    """Return how many processes the gateway is; raises `Rejected` where the file is damaged."""
    try:
        return processes(home.processes.read_text(encoding="ascii", errors="replace").strip())
    except FileNotFoundError:
        return 1


def gateway_uids(count: int) -> tuple[str, ...]:
    """Return what so many processes of the gateway are called.

    >>> gateway_uids(3)
    ('gateway', 'gateway-2', 'gateway-3')
    """
    return (GATEWAY, *(f"{GATEWAY}-{number}" for number in range(2, count + 1)))


def backup_age_s(environ: Mapping[str, str] = os.environ) -> float:
    """Return how old the last backup and the last drill may be: MADANG_BACKUP_AGE, as 12h or 30d.

    >>> backup_age_s({"MADANG_BACKUP_AGE": "12h"}), backup_age_s({})
    (43200.0, 604800.0)
    """
    given = environ.get("MADANG_BACKUP_AGE", "").strip()
    if not given:
        return BACKUP_AGE_S
    match = re.fullmatch(r"([1-9][0-9]{0,3})([hd])", given)
    if match is None:
        raise Rejected("setting.backup-age", age=given)
    return int(match[1]) * {"h": 3600.0, "d": 86400.0}[match[2]]


def moves_per_100(environ: Mapping[str, str] = os.environ) -> int:
    """Return how many of a hundred replicas may be moved: MADANG_MOVES_PER_100, 0 to 100.

    >>> moves_per_100({"MADANG_MOVES_PER_100": "0"}), moves_per_100({})
    (0, 5)
    """
    given = environ.get("MADANG_MOVES_PER_100", "").strip() or str(MOVES_PER_100)
    if re.fullmatch(r"[0-9]{1,2}|100", given) is None:
        raise Rejected("setting.moves", moves=given)
    return int(given)


def fairness_budget(environ: Mapping[str, str] = os.environ) -> float:
    """Return what part of its share a project may go short of: MADANG_FAIRNESS_BUDGET, .01 to .5.

    >>> fairness_budget({"MADANG_FAIRNESS_BUDGET": "0.08"}), fairness_budget({})
    (0.08, 0.13)
    """
    given = environ.get("MADANG_FAIRNESS_BUDGET", "").strip() or str(FAIRNESS_BUDGET)
    part = float(given) if re.fullmatch(r"0?\.[0-9]{1,4}", given) else 0.0
    if not BUDGETS[0] <= part <= BUDGETS[1]:
        raise Rejected("setting.fairness", budget=given)
    return part


def jobs_kept(environ: Mapping[str, str] = os.environ) -> int:
    """Return how many jobs of a project are kept that are over: MADANG_JOBS_KEPT, 0 for all.

    >>> jobs_kept({"MADANG_JOBS_KEPT": "50"}), jobs_kept({})
    (50, 1000)
    """
    given = environ.get("MADANG_JOBS_KEPT", "").strip() or str(JOBS_KEPT)
    if re.fullmatch(r"[0-9]{1,4}", given) is None:
        raise Rejected("setting.jobs-kept", jobs=given)
    return int(given)


def usage_days(environ: Mapping[str, str] = os.environ) -> int:
    """Return for how many days records of usage are kept: MADANG_USAGE_DAYS, 2 to 700.

    >>> usage_days({"MADANG_USAGE_DAYS": "31"}), usage_days({})
    (31, 100)
    """
    given = environ.get("MADANG_USAGE_DAYS", "").strip() or str(USAGE_DAYS)
    if re.fullmatch(r"[0-9]{1,3}", given) is None or not 2 <= int(given) <= 700:
        raise Rejected("setting.usage-days", days=given)
    return int(given)


def port(text: str | int) -> int:
    """Read a port that leaves room for the gateway's; 0 lets the machine choose both.

    >>> port("7070")
    7070
    """
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number != 0 and not 1 <= number <= 65534:
        raise Rejected("setting.port", port=str(text))
    return number


def names(environ: Mapping[str, str] = os.environ) -> frozenset[str]:
    """Return by what names API and gateway are called beside loopback: MADANG_NAMES.

    A name may be told with its port, and then only that one counts.

    >>> sorted(names({"MADANG_NAMES": "madang.lan, Box:8443"}))
    ['box:8443', 'madang.lan']
    """
    given = environ.get("MADANG_NAMES", "").lower().split(",")
    found = frozenset(name.strip() for name in given if name.strip())
    for name in found:
        if not re.fullmatch(r"([a-z0-9][a-z0-9.-]{0,252}|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", name):
            raise Rejected("setting.names", name=name)
    return found
