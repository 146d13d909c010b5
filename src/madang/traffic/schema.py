"""What an application may send, as closed types: the OpenAI API's fields, texts and images.

A field of type `None` is known but refused: silently ignoring it would mislead. Fields of
`Ignored` are checked and dropped: here they change nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

MESSAGES_MAX = 4096
TOOLS_MAX = 128
STOPS_MAX = 16
STOP_BYTES_MAX = 256
CHOICES_MAX = 8
LOGPROBS_MAX = 20
LOGIT_BIASES_MAX = 1024
INPUTS_MAX = 2048
"""Prompts of one completion, texts of one embedding request."""
IMAGES_MAX = 64
"""Images of one request."""
INT_MAX = 2**63 - 1
TOKENS_MAX = 2**31 - 1

Name = Annotated[str, Meta(min_length=1, max_length=256)]
Label = Annotated[str, Meta(max_length=512)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Tokens = Annotated[int, Meta(ge=1, le=TOKENS_MAX)]
TokenIds = Annotated[list[Annotated[int, Meta(ge=0, le=TOKENS_MAX)]], Meta(min_length=1)]
Inputs = str | Annotated[list[str | int | TokenIds], Meta(min_length=1)]
"""A text, several texts, one text as token ids, or several of those; never mixed."""
Stop = Annotated[str, Meta(min_length=1, max_length=STOP_BYTES_MAX)]
FreeForm = dict[str, Any]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""How much a model is to think."""
IMAGE_URL = r"^data:image/(png|jpeg|webp|gif);base64,"


class Part(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """The closed base of everything below. What JSON holds has no cycles: nothing to collect."""


class TextPart(Part, tag_field="type", tag="text"):
    """A piece of text."""

    text: str
    prompt_cache_breakpoint: FreeForm | None = None


class Image(Part):
    """A picture, in the request itself: nothing is fetched for an application."""

    url: Annotated[str, Meta(pattern=IMAGE_URL)]
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Part, tag_field="type", tag="image_url"):
    """A picture among texts."""

    image_url: Image


class RefusalPart(Part, tag_field="type", tag="refusal"):
    """A model's own refusal, sent back to it."""

    refusal: str


class Call(Part):
    """Which function a model called, and with what."""

    name: Name
    arguments: str


class ToolCall(Part, tag_field="type", tag="function"):
    """One call that an assistant made."""

    id: Label
    function: Call


Text = str | Annotated[list[TextPart], Meta(min_length=1)]


class Message(Part, tag_field="role", kw_only=True):
    """One turn of a conversation."""

    content: Text
    name: Label | None = None


class SystemMessage(Message, tag="system"):
    """What the model is to be."""


class DeveloperMessage(Message, tag="developer"):
    """The same, under its newer name."""


class UserMessage(Message, tag="user", kw_only=True):
    """What a person said or showed."""

    content: str | Annotated[list[TextPart | ImagePart], Meta(min_length=1)]  # type: ignore[assignment]


class AssistantMessage(Message, tag="assistant", kw_only=True):
    """What the model said; the official client sends a whole answer back, hence the extras."""

    content: str | list[TextPart | RefusalPart] | UnsetType | None = UNSET  # type: ignore[assignment]
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[ToolCall], Meta(max_length=TOOLS_MAX)] | None = None
    annotations: list[FreeForm] | None = None
    audio: None = None
    function_call: None = None


class ToolMessage(Message, tag="tool", kw_only=True):
    """What a tool answered."""

    tool_call_id: Label


ChatMessage = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


class Function(Part):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: Name
    description: str | None = None
    parameters: FreeForm | None = None
    strict: bool | None = None


class Tool(Part, tag_field="type", tag="function"):
    """A tool; only functions are known here."""

    function: Function


class Named(Part):
    """A function by its name."""

    name: Name


class ToolChoice(Part, tag_field="type", tag="function"):
    """The one tool that the model must call."""

    function: Named


class JsonSchema(Part):
    """The shape that an answer must have."""

    name: Name
    description: str | None = None
    schema: FreeForm | None = None
    strict: bool | None = None


class TextFormat(Part, tag_field="type", tag="text"):
    """Any text."""


class JsonFormat(Part, tag_field="type", tag="json_object"):
    """Any JSON object."""


class SchemaFormat(Part, tag_field="type", tag="json_schema"):
    """JSON of one shape."""

    json_schema: JsonSchema


class StreamOptions(Part):
    """How a stream is to end."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Ignored(Part, kw_only=True):
    """Fields of a hosted service: accepted, so that no program must change, and dropped."""

    user: Label | None = None
    metadata: Annotated[dict[str, str], Meta(max_length=16)] | None = None
    store: bool | None = None
    service_tier: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    prompt_cache_retention: Label | None = None
    prompt_cache_options: FreeForm | None = None
    prediction: FreeForm | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    modalities: list[Literal["text"]] | None = None


class Sampling(Ignored, kw_only=True):
    """What chat and plain completions share."""

    model: Name
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    n: Annotated[int, Meta(ge=1, le=CHOICES_MAX)] | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=STOPS_MAX)] | None = None
    seed: Annotated[int, Meta(ge=-INT_MAX, le=INT_MAX)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: (
        Annotated[
            dict[str, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=LOGIT_BIASES_MAX)
        ]
        | None
    ) = None


class Chat(Sampling, kw_only=True):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MESSAGES_MAX)]
    max_completion_tokens: Tokens | None = None
    tools: Annotated[list[Tool], Meta(max_length=TOOLS_MAX)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: TextFormat | JsonFormat | SchemaFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=LOGPROBS_MAX)] | None = None
    reasoning_effort: Effort | None = None
    audio: None = None
    functions: None = None
    function_call: None = None
    moderation: None = None
    web_search_options: None = None


class Completion(Sampling, kw_only=True):
    """The body of POST /v1/completions."""

    prompt: Inputs
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=LOGPROBS_MAX)] | None = None
    best_of: None = None
    suffix: None = None


class Embedding(Ignored, kw_only=True):
    """The body of POST /v1/embeddings."""

    model: Name
    input: Inputs
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: None = None


Body = Chat | Completion | Embedding
