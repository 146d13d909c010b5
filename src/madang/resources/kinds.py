"""Every kind by its name, and the ones that people may write."""

from __future__ import annotations

from typing import Any

from madang.resources.attempt import Attempt
from madang.resources.endpoint import Endpoint
from madang.resources.event import Event
from madang.resources.grant import Grant
from madang.resources.job import Job
from madang.resources.model import Model
from madang.resources.place import Accelerator, Node, Pool, Site
from madang.resources.queue import Queue
from madang.resources.quota import Quota
from madang.resources.replica import Replica
from madang.resources.resource import AnyResource
from madang.resources.revision import Build, Revision
from madang.resources.round import Round
from madang.resources.secret import Secret
from madang.resources.service import Service
from madang.resources.tenancy import Key, Organization, Project, User
from madang.resources.volume import Volume

KINDS: dict[str, type[AnyResource]] = {
    kind.kind: kind
    for kind in (
        Organization, Project, User, Quota, Round, Grant, Key, Site, Pool, Node, Accelerator,
        Model, Service, Revision, Build, Replica, Endpoint, Volume, Secret, Job,
        Attempt, Queue,
    )
}  # fmt: skip

WRITABLE = (
    "organization", "project", "user", "quota", "round", "grant", "site", "pool", "model",
    "service", "volume", "job",
)  # fmt: skip
"""Kinds that `apply` takes."""


def json_schema(kind: str) -> dict[str, Any]:
    """Return the JSON Schema of one kind, or of `event`."""
    return (Event if kind == "event" else KINDS[kind]).model_json_schema()
