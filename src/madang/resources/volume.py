"""volume: a folder that outlives the jobs that mount it."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, Strict

from madang.resources.quantity import Size
from madang.resources.resource import Frozen, Resource


class VolumeSpec(Frozen):
    """What is kept, and where."""

    size: Size = Field(default=0, ge=0)
    """How large it may become, in bytes; 0: as large as the disk lets it."""
    path: Annotated[str, Field(max_length=512, pattern=r"^(/[^\x00]*)?$")] = ""
    """A folder that is there already, for operators of the site; empty: one of its own."""
    read_only: Annotated[bool, Strict()] = False
    """Whether nobody who mounts it may change it."""


class VolumeStatus(Frozen):
    """How much of it is used, as last measured."""

    used_bytes: int = 0
    files: int = 0
    measured_at: float = 0.0
    """Unix seconds; 0: not yet."""


class Volume(Resource[VolumeSpec, VolumeStatus]):
    """A folder that outlives the jobs that mount it."""

    kind: ClassVar[str] = "volume"

    @property
    def is_full(self) -> bool:
        """Tell whether more is in it than may be: then no job goes on that may write there."""
        spec = self.spec
        return bool(spec.size) and not spec.read_only and self.status.used_bytes > spec.size
