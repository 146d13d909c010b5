"""From what people wrote to what is served: a service's spec with everything pinned."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from madang.planning.ask import Ask
from madang.planning.snapshot import EngineFacts, Snapshot
from madang.resources.job import Job
from madang.resources.model import ModelVersion, split_model
from madang.resources.place import Guarantee
from madang.resources.quantity import written_size
from madang.resources.resource import Reason, Ref
from madang.resources.revision import (
    Build,
    BuildSpec,
    BuildStatus,
    Form,
    Revision,
    RevisionSpec,
)
from madang.resources.service import Needs, Service

GB = 10**9
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
    if version is None and model and model.status.reason:
        return Unmet(model.status.reason, f"model/{name}")
    if version is None:
        missing = Reason(code="model.missing", values={"model": service.spec.model})
        fix = Reason(code="model.fix-add", values={"model": name})
        return Unmet(missing, f"model/{name}", fix)
    spec = service.spec
    own = form_of(spec.recipe, spec.needs, spec.throughput, version, snapshot)
    if isinstance(own, Unmet):
        return own
    variants = []
    for variant in spec.variants:
        named = {
            "accelerator": variant.accelerator,
            "memory": variant.memory,
            "count": variant.count,
        }
        needs = spec.needs.model_copy(update=named)
        form = form_of(variant.recipe, needs, variant.throughput, version, snapshot)
        if isinstance(form, Unmet):
            return form
        variants.append(form)
    return RevisionSpec(
        service=service.name,
        number=service.status.revisions + 1,
        model=name,
        model_version=version.number,
        digest=version.digest,
        **dict(own),
        gate=tuple(dict.fromkeys(("smoke", *spec.gate))),
        prefer=spec.prefer,
        grade=spec.grade,
        variants=tuple(variants),
    )


def form_of(
    recipe: str, needs: Needs, throughput: float, version: ModelVersion, snapshot: Snapshot
) -> Form | Unmet:
    """Pin one way to make a replica: its engine, and how large it is made."""
    engine = choose_engine(recipe, version, snapshot.engines.values())
    if engine is None:
        reason = Reason(code="recipe.missing", values={
            "recipe": recipe or "-", "format": version.format,
            "known": ", ".join(sorted(snapshot.engines)),
        })  # fmt: skip
        return Unmet(reason)
    shape = shape_of(version, engine, needs.memory and needs.memory * needs.count)
    if isinstance(shape, Unmet):
        return shape
    return Form(
        recipe=engine.name, needs=needs, context_tokens=shape.context_tokens, slots=shape.slots,
        memory_bytes=needs.memory or -(-shape.memory_bytes // needs.count), throughput=throughput,
    )  # fmt: skip


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
        least = written_size(-(-least_bytes(version, engine) // 10**6) * 10**6)
        given = written_size(given_bytes)
        reason = Reason(code="model.too-large", values={"memory": given, "least": least})
        return Unmet(reason, fix=Reason(code="placement.fix-memory", values={"memory": least}))
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


def ask_of(ref: Ref, snapshot: Snapshot) -> Ask | None:
    """Return what one replica of a revision asks for, in any of its forms; None: none is left.

    A form whose recipe has gone asks for nothing.
    """
    revision = snapshot.revisions.get(ref)
    if revision is None:
        return None
    spec = revision.spec
    model = snapshot.models.get(Ref(revision.project, spec.model))
    version = model.version(spec.model_version) if model else None
    asks = [
        _ask(spec, number, form, engine, version)
        for number, form in enumerate(spec.forms)
        if (engine := snapshot.engines.get(form.recipe))
    ]
    return replace(asks[0], also=tuple(asks[1:])) if asks else None


def ask_of_job(job: Job) -> Ask:
    """Return what a job asks for on each node of its gang.

    Without an accelerator the node's processors are meant. Without a size accelerators are wanted
    whole, and of the node's memory 1 GB.
    """
    needs = job.spec.needs
    kind = needs.accelerator or "cpu"
    is_cpu = kind.partition("/")[0] == "cpu"
    whole = needs.memory is None and not is_cpu
    return Ask(
        kinds=frozenset({kind}), count=needs.count,
        memory_bytes=needs.memory or (GB if is_cpu else 0),
        guarantee=Guarantee.ISOLATED if whole else needs.guarantee,
        cores=needs.cores, host_memory_bytes=needs.host_memory, grade=job.spec.grade,
    )  # fmt: skip


def _ask(
    spec: RevisionSpec, number: int, form: Form, engine: EngineFacts, version: ModelVersion | None
) -> Ask:
    needs = form.needs
    least = least_bytes(version, engine) if version else form.memory_bytes * needs.count
    return Ask(
        kinds=engine.accelerator_kinds, wanted_kind=needs.accelerator, count=needs.count,
        memory_bytes=form.memory_bytes, total_bytes_min=least, guarantee=needs.guarantee,
        cores=needs.cores, host_memory_bytes=needs.host_memory, grade=spec.grade,
        prefer=spec.prefer, variant=number, throughput=form.throughput,
    )  # fmt: skip


def same_template(one: RevisionSpec, other: RevisionSpec) -> bool:
    """Tell whether two revisions would serve the same thing in the same way."""
    return one.model_copy(update={"number": other.number}) == other


def build_for(revision: Revision, recipe: str, accelerator: str, engine_version: str) -> Build:
    """Return the (open) build that this revision is by a recipe on a kind of accelerator."""
    spec = revision.spec
    build = BuildSpec(
        digest=spec.digest,
        engine=recipe,
        engine_version=engine_version,
        accelerator=accelerator,
        recipe=recipe,
        gate=spec.gate,
    )
    name = hashlib.sha256(build.model_dump_json().encode()).hexdigest()[:16]
    uid = f"build-{name}-{hashlib.sha256(revision.project.encode()).hexdigest()[:8]}"
    return Build(project=revision.project, name=name, uid=uid, spec=build, status=BuildStatus())
