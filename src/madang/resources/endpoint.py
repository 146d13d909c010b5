"""endpoint: the name that applications call."""

from __future__ import annotations

from typing import ClassVar

from madang.resources.resource import Frozen, Name, Resource
from madang.resources.tenancy import Empty


class EndpointSpec(Frozen):
    """Which service answers."""

    service: Name


class Endpoint(Resource[EndpointSpec, Empty]):
    """A name, unique in its project, that `model:` in a request means."""

    kind: ClassVar[str] = "endpoint"
