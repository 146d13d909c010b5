"""From what people wrote to what is served: a service's spec with everything pinned."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from madang.planning.ask import Ask
from madang.planning.snapshot import EngineFacts, Snapshot
from madang.resources.model import ModelVersion, split_model
from madang.resources.quantity import written_size
from madang.resources.resource import Reason, Ref
from madang.resources.revision import Build, BuildSpec, BuildStatus, Revision, RevisionSpec
from madang.resources.service import Service

CONTEXT_TOKENS_MIN = 256
SLOT_TOKENS = 2048
"""A slot with less context than this is not worth having beside another."""


@dataclass(frozen=True, slots=True)
class Unmet:
    """Why no revision can be made of this service yet."""

    reason: Reason
    blocked_by: str = ""
    fix: Reason | None = None


def pin(service: Service, snapshot: Snapshot) -> RevisionSpec | Unmet:
    """Resolve model, recipe, memory and gate; the number is the next one."""
    name, number = split_model(service.spec.model)
    model = snapshot.models.get(Ref(service.project, name))
    version = model.version(number) if model else None
    if version is None:
        values: dict[str, str | int | float] = {"model": service.spec.model}
        fix = Reason(code="model.fix-add", values={"model": name})
        return Unmet(Reason(code="model.missing", values=values), f"model/{name}", fix)
    engine = choose_engine(service.spec.recipe, version, snapshot.engines.values())
    if engine is None:
        return Unmet(
            Reason(
                code="recipe.missing",
                values={
                    "recipe": service.spec.recipe or "-",
                    "format": version.format,
                    "known": ", ".join(sorted(snapshot.engines)),
                },
            )
        )
    needs = service.spec.needs
    shape = shape_of(version, engine, needs.memory and needs.memory * needs.count)
    if isinstance(shape, Unmet):
        return shape
    return RevisionSpec(
        service=service.name,
        number=service.status.revisions + 1,
        model=name,
        model_version=version.number,
        digest=version.digest,
        recipe=engine.name,
        needs=needs,
        memory_bytes=needs.memory or -(-shape.memory_bytes // needs.count),
        context_tokens=shape.context_tokens,
        slots=shape.slots,
        gate=tuple(dict.fromkeys(("smoke", *service.spec.gate))),
        prefer=service.spec.prefer,
        grade=service.spec.grade,
    )


@dataclass(frozen=True, slots=True)
class Shape:
    """How large one replica is made."""

    memory_bytes: int
    """Over all its accelerators."""
    context_tokens: int
    """Over all its slots."""
    slots: int


def shape_of(version: ModelVersion, engine: EngineFacts, given_bytes: int | None) -> Shape | Unmet:
    """Return the largest shape, up to what the engine likes, that fits into the given memory.

    Context is cut first down to one whole slot's worth, then slots, then the slot itself; without
    a given memory nothing is cut. What does not fit even so is `Unmet`, with the least that would.
    """
    fixed = _fixed_bytes(version, engine)
    per_token = version.kv_bytes_per_token
    trained = version.context_tokens or engine.context_tokens
    liked = max(CONTEXT_TOKENS_MIN, min(engine.context_tokens, trained * engine.slots))
    if given_bytes is None or fixed + per_token * liked <= given_bytes:
        return Shape(fixed + per_token * liked, liked, engine.slots)
    room = (given_bytes - fixed) // per_token if per_token else 0
    context = room // CONTEXT_TOKENS_MIN * CONTEXT_TOKENS_MIN
    if context < CONTEXT_TOKENS_MIN:
        least = f"{-(-least_bytes(version, engine) // 10**6)}MB"
        values: dict[str, str | int | float] = {"memory": written_size(given_bytes), "least": least}
        fix = Reason(code="placement.fix-memory", values={"memory": least})
        return Unmet(Reason(code="model.too-large", values=values), fix=fix)
    slots = max(1, min(engine.slots, context // SLOT_TOKENS))
    return Shape(fixed + per_token * context, context, slots)


def least_bytes(version: ModelVersion, engine: EngineFacts) -> int:
    """Return the memory below which a model can't be served at all."""
    return _fixed_bytes(version, engine) + version.kv_bytes_per_token * CONTEXT_TOKENS_MIN


def _fixed_bytes(version: ModelVersion, engine: EngineFacts) -> int:
    return int(version.size_bytes * engine.weights_factor) + engine.overhead_bytes


def choose_engine(
    recipe: str, version: ModelVersion, engines: Iterable[EngineFacts]
) -> EngineFacts | None:
    """Return the engine that was asked for, or the first by name that reads the format."""
    fitting = [
        engine
        for engine in engines
        if engine.version and version.format in engine.formats and recipe in {"", engine.name}
    ]
    return min(fitting, key=lambda e: e.name, default=None)


def ask_of(revision: Revision, snapshot: Snapshot) -> Ask | None:
    """Return what one replica of this revision asks for; None if its recipe has gone."""
    spec = revision.spec
    engine = snapshot.engines.get(spec.recipe)
    if engine is None:
        return None
    model = snapshot.models.get(Ref(revision.project, spec.model))
    version = model.version(spec.model_version) if model else None
    least = least_bytes(version, engine) if version else spec.memory_bytes * spec.needs.count
    return Ask(
        kinds=engine.accelerator_kinds,
        wanted_kind=spec.needs.accelerator,
        count=spec.needs.count,
        memory_bytes=spec.memory_bytes,
        total_bytes_min=least,
        guarantee=spec.needs.guarantee,
        cores=spec.needs.cores,
        host_memory_bytes=spec.needs.host_memory,
        grade=spec.grade,
        prefer=spec.prefer,
    )


def same_template(one: RevisionSpec, other: RevisionSpec) -> bool:
    """Tell whether two revisions would serve the same thing in the same way."""
    return one.model_copy(update={"number": other.number}) == other


def build_for(revision: Revision, accelerator: str, engine_version: str) -> Build:
    """Return the (open) build that this revision is on this kind of accelerator."""
    spec = revision.spec
    build = BuildSpec(
        digest=spec.digest,
        engine=spec.recipe,
        engine_version=engine_version,
        accelerator=accelerator,
        recipe=spec.recipe,
        gate=spec.gate,
    )
    name = hashlib.sha256(build.model_dump_json().encode()).hexdigest()[:16]
    uid = f"build-{name}-{hashlib.sha256(revision.project.encode()).hexdigest()[:8]}"
    return Build(project=revision.project, name=name, uid=uid, spec=build, status=BuildStatus())
