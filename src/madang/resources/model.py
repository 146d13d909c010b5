"""model: weights that can be served, in numbered versions that never change."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from madang.errors import Unfit
from madang.resources.resource import Frozen, Reason, Resource

VOLUME = "volume://"


def volume_path(source: str) -> tuple[str, str]:
    """Split `volume://NAME/PATH` into the two; two empty words for any other source.

    Raises `Unfit` for a path that is none below the volume.

    >>> volume_path("volume://data/out/tiny.gguf"), volume_path("/srv/tiny.gguf")
    (('data', 'out/tiny.gguf'), ('', ''))
    """
    if not source.startswith(VOLUME):
        return "", ""
    name, _, path = source.removeprefix(VOLUME).partition("/")
    if not name or {"", ".", ".."} & {*path.split("/")} or not path.isprintable():
        raise Unfit("value.volume-path", written=source)
    return name, path


def _check_source(source: str) -> str:
    volume_path(source)
    return source


class ModelSpec(Frozen):
    """Where its newest version came from."""

    source: Annotated[
        str, Field(min_length=1, max_length=4096), AfterValidator(_check_source)
    ]  # fmt: skip
    """`file:///…`, a local path, or `volume://NAME/PATH`, which is read once no job works on that
    volume; `hf://` and `s3://` are not served yet."""

    @property
    def is_file(self) -> bool:
        """Tell whether it lies on the server, and in no volume of its project."""
        return not volume_path(self.source)[0]


class ModelVersion(Frozen):
    """One immutable set of files, known by digest; what `inspect` read from it."""

    number: int
    digest: str
    """`sha256:…` of the file."""
    source: str
    size_bytes: int
    format: str
    """`gguf` or `fake`."""
    architecture: str = ""
    parameters: int = 0
    context_tokens: int = 0
    """Trained context; 0 where the file does not say."""
    kv_bytes_per_token: int = 0
    licence: str = ""
    chat_template: bool = False
    template_takes: tuple[str, ...] | None = None
    """What its chat template takes beside turns: `tools`, `reasoning`. None: unknown."""
    imported_at: float = 0.0


class ModelStatus(Frozen):
    """Its versions, oldest first."""

    versions: tuple[ModelVersion, ...] = ()
    reason: Reason | None = None
    """Why the newest spec has not been read yet, where it lies in a volume."""
    blocked_by: str = ""
    """kind/name of what it waits for."""
    read_generation: int = 0
    """Of the spec that was read from a volume."""


class Model(Resource[ModelSpec, ModelStatus]):
    """Weights under a name; `name` means the newest version, `name@2` the second."""

    kind: ClassVar[str] = "model"

    def grown(self, version: ModelVersion, now: float) -> Model:
        """Return it with this version as its newest; as it is, if it has these bytes."""
        versions = self.status.versions
        if any(each.digest == version.digest for each in versions):
            return self
        numbered = version.model_copy(update={"number": len(versions) + 1, "imported_at": now})
        grown: Model = self.with_status(versions=(*versions, numbered))
        return grown

    def version(self, number: int | None = None) -> ModelVersion | None:
        """Return that version, or the newest; None where there is none."""
        versions = self.status.versions
        if number is None:
            return versions[-1] if versions else None
        return next((v for v in versions if v.number == number), None)


def split_model(written: str) -> tuple[str, int | None]:
    """Split `name` or `name@version`; raises `Unfit` for a version below 1.

    >>> split_model("qwen@2"), split_model("qwen")
    (('qwen', 2), ('qwen', None))
    """
    name, at, version = written.partition("@")
    if not at:
        return name, None
    if not version.isascii() or not version.isdigit() or not 0 < int(version) < 10**9:
        raise Unfit("value.model-version", written=written)
    return name, int(version)
