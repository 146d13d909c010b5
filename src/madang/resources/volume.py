"""volume: a folder that outlives the jobs that mount it."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, Strict

from madang.resources.quantity import Size
from madang.resources.resource import Frozen, Resource
from madang.resources.tenancy import Empty


class VolumeSpec(Frozen):
    """What is kept, and where."""

    size: Size = Field(default=0, ge=0)
    """How large it may become, in bytes; 0: as large as the disk lets it."""
    path: Annotated[str, Field(max_length=512, pattern=r"^(/[^\x00]*)?$")] = ""
    """A folder that is there already, for operators of the site; empty: one of its own."""
    read_only: Annotated[bool, Strict()] = False
    """Whether nobody who mounts it may change it."""


class Volume(Resource[VolumeSpec, Empty]):
    """A folder that outlives the jobs that mount it."""

    kind: ClassVar[str] = "volume"
