"""The route table: all that a gateway needs to serve, in one immutable, versioned value.

Control makes it, gateways pull it, write it to disk and serve from it with control down.
"""

from __future__ import annotations

from msgspec import Struct

from madang.forms import KNOWN

Value = str | int | float
"""What a sentence may be filled with."""


class Target(Struct, frozen=True):
    """One ready replica."""

    uid: str
    epoch: int
    url: str
    """Root of the engine, without a path."""
    token: str
    """The engine's own key: engines answer nobody but their gateway and their gate."""
    slots: int = 1
    """How many requests it works on at once."""
    group: str = ""
    """Whose weight it shares: its revision."""
    weight: float = 1.0
    """What part of the requests its group gets, beside the weights of the other groups."""
    kv_tokens: int = 0
    """Tokens that its cache for prompts holds; 0: nobody knows."""


class Waiting(Struct, frozen=True):
    """Why nothing answers under a name: a code of `messages` and the values of its sentence."""

    code: str
    values: dict[str, Value]


class Price(Struct, frozen=True):
    """What tokens of an endpoint cost, in won per million."""

    input: float = 0.0
    cached: float = 0.0
    """Those of the input that the engine had kept."""
    output: float = 0.0


class Allowance(Struct, frozen=True, kw_only=True):
    """What one key, project or organization may ask of models; None: as much as there is."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None
    tokens_per_day: int | None = None
    krw_per_month: int | None = None


SKILLS = frozenset(
    {"tools", "json", "logprobs", "choices", "prompts", "echo", "vision", "reasoning"}
)
"""What some engines can and others can't, where a request asks for it.

tools: call functions; json: keep to a schema; logprobs: tell the odds of tokens; choices: several
answers to one prompt; prompts: several prompts in one completion; echo: say the prompt again;
vision: look at pictures; reasoning: think as much as one is told.
"""


CACHES = frozenset({"cache-salt", "cache-off"})
"""How an engine can be told to keep prompts apart: by `cache_salt`, or `cache_prompt` as false."""
SITE = "site"


class Endpoint(Struct, frozen=True):
    """A name that applications call, and where its requests may go."""

    project: str
    name: str
    model: str
    """The name under which the engine knows what it serves."""
    targets: tuple[Target, ...]
    context_tokens: int
    features: frozenset[str] = frozenset({"chat", "completions", "embeddings"})
    waiting: Waiting | None = None
    """Why it has no target; None while it has one."""
    hold_s: float = 0.0
    """So long requests wait for a turn, also while it has no target; 0: not while it has none."""
    price: Price | None = None
    """None: its tokens cost nothing."""
    wh: Price | None = None
    """What they draw, in watt hours per million; None: nobody knows."""
    lacks: frozenset[str] = frozenset()
    """Of `SKILLS`, what its engines, or its model, can't do."""
    visible_to: frozenset[str] = frozenset()
    """Projects and organizations that may call it too; `site`: all."""
    cache: frozenset[str] = frozenset()
    """Of `CACHES`, by which its engines keep prompts of projects apart."""


class Key(Struct, frozen=True):
    """One api key, known by its digest only."""

    name: str
    project: str
    """Where names are looked up."""
    role: str
    uid: str = ""
    where: str | None = None
    """It sees endpoints here and below: an organization; empty: all. None: its project's only."""
    may_infer: bool = False
    """Whether it may call what it sees."""
    expires_at: float | None = None
    """Unix seconds."""
    weight: float = 1.0
    """Of its project's turns, above 0: with 2 it gets twice the tokens of one with 1."""
    limits: Allowance | None = None
    """Its own, beside those of its project and organization."""
    models: frozenset[str] = frozenset()
    """Those that it may call, by name or full name; none: all that it sees."""
    salt: str = ""
    """Tells its project from others where an engine keeps caches apart; made with a secret."""

    def calls(self, endpoint: Endpoint) -> bool:
        """Tell whether an endpoint exists for it: where it holds, or shown to its project."""
        if self.models and not self._names(endpoint):
            return False
        if self.sees(endpoint.project):
            return True
        organization = self.project.partition("/")[0]
        if not self.sees(self.project):
            return False
        return not endpoint.visible_to.isdisjoint((self.project, organization, SITE))

    def _names(self, endpoint: Endpoint) -> bool:
        """Tell whether an endpoint is among the models that it is narrowed to."""
        is_own = endpoint.project == self.project and endpoint.name in self.models
        return is_own or f"{endpoint.project}/{endpoint.name}" in self.models

    def sees(self, project: str) -> bool:
        """Tell whether endpoints of that project exist for it."""
        where = self.project if self.where is None else self.where
        return not where or project == where or project.startswith(f"{where}/")


class RouteTable(Struct, frozen=True):
    """What gateways serve. A table with a higher version replaces one with a lower.

    Versions are counted by each state for itself: a state that was lost and made anew begins low.
    """

    version: int
    endpoints: tuple[Endpoint, ...] = ()
    keys: dict[str, Key] = {}
    """By SHA-256 of the key, in hex."""
    store: str = ""
    """Names the state it was made from."""
    form: int = KNOWN
    """See `forms`."""
    limits: dict[str, Allowance] = {}
    """Of projects and organizations, by their names; only of those that have any."""


class Demand(Struct, frozen=True):
    """What is called for of one endpoint at one gateway."""

    busy: int
    """Requests in hand,"""
    peak: int
    """and at most since control was last heard;"""
    waiting: int = 0
    """those of them that wait,"""
    wait_s: float = 0.0
    """the first for so many seconds."""


class Pull(Struct, frozen=True):
    """What a gateway says when it asks for the next table."""

    gateway: str
    """The uid of its process."""
    serving: int
    """Version of the table it serves now: the acknowledgement."""
    inflight: dict[str, int] = {}
    """Requests under way, by the uid of the replica."""
    silent: dict[str, float] = {}
    """How long they have waited for a byte of it, in seconds."""
    wait_s: float = 2.0
    store: str = ""
    """The state that the table it serves was made from; empty: it does not say."""
    demand: dict[str, Demand] = {}
    """What is called for, by `project/name` of the endpoint."""
    lost: int = 0
    """Records of usage that its process has lost since its start: they are in no bill."""
    unwritten: str = ""
    """Why its disk takes no records just now; empty: it takes them."""


class Usage(Struct, frozen=True, gc=False):
    """What one request used; `id` makes a second delivery harmless."""

    id: str
    at: float
    key: str
    project: str
    endpoint: str
    replica: str
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    status: int
    duration_s: float
    first_token_s: float | None = None
    estimated: bool = False
    """True when the engine gave no usage and the tokens were counted as they passed."""
    key_uid: str = ""
    """The key itself: another may have its name one day."""
    payer: str = ""
    """The project whose key it was; empty in records of before: that of the endpoint."""
    model: str = ""
    krw: float = 0.0
    """What it cost,"""
    price: Price | None = None
    """by this price, that of the moment; None: nothing."""
    wh: float = 0.0
    """What it drew, estimated; 0 where nobody knows."""
