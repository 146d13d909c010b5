"""Who may call what: one route table, indexed for the questions that every request asks."""

from __future__ import annotations

from hashlib import sha256
from unicodedata import normalize

from msgspec import json, structs

from madang.traffic.doors import PATHS, Head
from madang.traffic.refusal import Refusal, invalid, unavailable
from madang.traffic.requests import Kind, Request
from madang.traffic.skills import wishes
from madang.traffic.table import Endpoint, Key, RouteTable

FOUND_MAX = 4096
NAMES_SHOWN_MAX = 20
"""A refusal lists at most this many models."""


class Directory:
    """A route table with its indexes. Built once per table, then only read."""

    def __init__(self, table: RouteTable) -> None:
        self.table = table
        self._endpoints = {(each.project, each.name): each for each in table.endpoints}
        self._keys = {each.uid: each for each in table.keys.values()}
        self._found: dict[tuple[int, str, Kind], tuple[Key, Endpoint]] = {}
        """What was resolved before, by key, name and kind."""

    def identify(self, head: Head, at: float, stale: bool) -> Key | Refusal:
        """Find the key; `at` is Unix seconds, `stale` says that control was not heard lately."""
        scheme, _, secret = (head.authorization or b"").partition(b" ")
        secret = secret.strip()
        if not secret or scheme.lower() != b"bearer":
            return Refusal(401, "invalid_api_key", "gateway.key-needed")
        key = self.table.keys.get(sha256(secret).hexdigest())
        if key is None and stale:
            return unavailable("key_unverified", "gateway.key-unverified")
        if key is None:
            return Refusal(401, "invalid_api_key", "gateway.key-unknown")
        if key.expires_at is not None and key.expires_at <= at:
            return Refusal(401, "invalid_api_key", "gateway.key-expired")
        return key

    def known(self, key: Key) -> Key | None:
        """Return what a key that was let in is by now; None: it opens nothing any more."""
        return self._keys.get(key.uid)

    def honours(self, key: Key, place: tuple[str, str], at: float) -> bool:
        """Tell whether a key that was let in may still call what it calls; `at` is Unix seconds.

        An endpoint that is gone meanwhile has all its requests answered to their ends.
        """
        now, endpoint = self.known(key), self._endpoints.get(place)
        if now is None or not now.may_infer:
            return False
        may_call = now.calls(endpoint) if endpoint else key.sees(place[0]) <= now.sees(place[0])
        return may_call and (now.expires_at is None or at < now.expires_at)

    def resolve(self, key: Key, model: str, kind: Kind) -> Endpoint | Refusal:
        """Find the endpoint that a key means by a model's name, ready or waited for."""
        known = self._found.get((id(key), model, kind))
        if known is not None and known[0] is key:  # a table never changes, nor what it answers
            return known[1]
        found = self._resolve(key, model, kind)
        if not isinstance(found, Refusal):
            if len(self._found) >= FOUND_MAX:
                self._found.clear()
            self._found[id(key), model, kind] = key, found
        return found

    def _resolve(self, key: Key, model: str, kind: Kind) -> Endpoint | Refusal:
        if not key.may_infer:
            return Refusal(403, "role_too_low", "gateway.role-too-low", {"role": key.role})
        endpoint = self.find(key, model)
        if isinstance(endpoint, Refusal):
            return endpoint
        if ("chat" if kind == "responses" else kind) not in endpoint.features:
            door, code = PATHS[kind], "unsupported_by_model"
            return invalid("gateway.not-offered", "model", code, model=model, path=door)
        if endpoint.targets or endpoint.hold_s:
            return endpoint
        refusal = unavailable("model_not_ready", "gateway.model-not-ready", model=model)
        return structs.replace(refusal, waiting=endpoint.waiting)

    def fit(self, endpoint: Endpoint, request: Request) -> Refusal | None:
        """Refuse what a request asks for and no engine behind its endpoint can do."""
        for skill, param in wishes(request.body):
            if skill in endpoint.lacks:
                code, named = "unsupported_by_model", request.model
                return invalid("gateway.lacks", param, code, model=named, feature=skill)
        return None

    def find(self, key: Key, model: str) -> Endpoint | Refusal:
        """Look up NAME in the key's project, or PROJECT/NAME; another project's is absent.

        A name counts in its canonical form (NFC), as everywhere.
        """
        project, _, name = normalize("NFC", model).rpartition("/")
        home = project or key.project
        found = self._endpoints.get((home, name))
        if found is not None and key.calls(found):
            return found
        names = sorted(self._visible(key))
        shown = ", ".join(names[:NAMES_SHOWN_MAX]) + (", …" if len(names) > NAMES_SHOWN_MAX else "")
        return Refusal(
            404,
            "model_not_found",
            "gateway.model-not-found" if names else "gateway.no-models",
            {"model": model[:256], "project": key.project, "models": shown},
            "model",
        )

    def _visible(self, key: Key) -> dict[str, Endpoint]:
        """Return every endpoint that this key may see, by the name it would call it."""
        seen = {}
        for (project, name), endpoint in self._endpoints.items():
            if key.calls(endpoint):
                seen[name if project == key.project else f"{project}/{name}"] = endpoint
        return seen

    def models(self, key: Key) -> bytes:
        """Write the list of models in the OpenAI shape."""
        cards = [_card(name, endpoint) for name, endpoint in self._visible(key).items()]
        return json.encode({"object": "list", "data": cards})

    def model(self, key: Key, name: str) -> bytes | Refusal:
        """Write one model in the OpenAI shape."""
        found = self.find(key, name)
        return found if isinstance(found, Refusal) else json.encode(_card(name, found))


def _card(name: str, endpoint: Endpoint) -> dict[str, str | int | bool]:
    """Describe one model; the last two are ours, and clients pass over them."""
    card: dict[str, str | int | bool] = {"id": name, "object": "model", "created": 0}
    card |= {"owned_by": endpoint.project, "context_tokens": endpoint.context_tokens}
    return card | {"ready": bool(endpoint.targets)}
