"""The newer of OpenAI's two ways to ask, as what it is to an engine: a chat.

Every engine speaks chat, few speak this; so it is translated here, and back in `retold`. Nothing is
kept between two requests: whoever goes on with a conversation sends all of it again.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from madang.traffic import schema
from madang.traffic.refusal import Refusal, invalid
from madang.traffic.schema import FreeForm, Label, Name, Part, Tokens

ITEMS_MAX = schema.MESSAGES_MAX
INCLUDES_MAX = 16
Status = Literal["in_progress", "completed", "incomplete"]


class InputText(Part, tag_field="type", tag="input_text"):
    """A piece of what was said to the model."""

    text: str
    prompt_cache_breakpoint: FreeForm | None = None


class OutputText(Part, tag_field="type", tag="output_text"):
    """A piece of what the model said, sent back to it; the extras come from its answer."""

    text: str
    annotations: list[FreeForm] | None = None
    logprobs: list[FreeForm] | None = None


class InputImage(Part, tag_field="type", tag="input_image"):
    """A picture, in the request itself."""

    image_url: Annotated[str, Meta(pattern=schema.IMAGE_URL)]
    detail: Literal["auto", "low", "high"] | None = None
    file_id: None = None


class ReasoningText(Part, tag_field="type", tag="reasoning_text"):
    """A piece of what the model thought."""

    text: str


class SummaryText(Part, tag_field="type", tag="summary_text"):
    """A piece of a summary of that; no engine here makes one."""

    text: str


Content = Annotated[
    list[InputText | OutputText | InputImage | schema.RefusalPart | ReasoningText],
    Meta(max_length=ITEMS_MAX),
]


class Item(Part, kw_only=True):
    """One entry of a conversation, of any kind that is known here."""

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    id: Label | None = None
    status: Status | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | Content | None = None
    phase: Literal["commentary", "final_answer"] | None = None
    call_id: Label | None = None
    name: Name | None = None
    arguments: str | None = None
    output: str | Annotated[list[InputText], Meta(min_length=1)] | None = None
    summary: list[SummaryText] | None = None
    encrypted_content: None = None


class Function(Part, tag_field="type", tag="function"):
    """A function that the model may call."""

    name: Name
    description: str | None = None
    parameters: FreeForm | None = None
    strict: bool | None = None


class Choice(Part, tag_field="type", tag="function"):
    """The one function that the model must call."""

    name: Name


class JsonSchemaFormat(Part, tag_field="type", tag="json_schema"):
    """JSON of one shape."""

    name: Name
    schema: FreeForm
    description: str | None = None
    strict: bool | None = None


class TextOptions(Part):
    """The form of the answer."""

    format: schema.TextFormat | schema.JsonFormat | JsonSchemaFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(Part):
    """How much the model is to think; what it thought is always told, never a summary."""

    effort: schema.Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class StreamOptions(Part):
    """Nothing that is of use here."""

    include_obfuscation: bool | None = None


class Asked(schema.Ignored, kw_only=True):
    """The body of POST /v1/responses."""

    model: Name
    input: str | Annotated[list[Item], Meta(min_length=1, max_length=ITEMS_MAX)]
    instructions: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_output_tokens: Tokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=schema.LOGPROBS_MAX)] | None = None
    tools: Annotated[list[Function], Meta(max_length=schema.TOOLS_MAX)] | None = None
    tool_choice: Literal["none", "auto", "required"] | Choice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    include: Annotated[list[Label], Meta(max_length=INCLUDES_MAX)] | None = None
    truncation: Literal["disabled"] | None = None
    background: bool | None = None
    previous_response_id: Label | None = None
    conversation: None = None
    prompt: None = None
    max_tool_calls: None = None
    context_management: None = None
    moderation: None = None


class Told(Struct, frozen=True):
    """What an answer says again of the request that it answers."""

    instructions: str | None
    max_output_tokens: int | None
    temperature: float | None
    top_p: float | None
    tools: list[Function]
    tool_choice: str | Choice
    parallel_tool_calls: bool
    text: TextOptions
    reasoning: Reasoning
    metadata: dict[str, str]


def as_chat(asked: Asked) -> schema.Chat | Refusal:
    """Say it as a chat; the refusal names what can't be said so."""
    if refused := _kept(asked):
        return refused
    messages = _messages(asked)
    if isinstance(messages, Refusal):
        return messages
    text = asked.text.format if asked.text else None
    shape: Any = text
    if isinstance(text, JsonSchemaFormat):
        named = schema.JsonSchema(text.name, text.description, text.schema, text.strict)
        shape = schema.SchemaFormat(named)
    elif isinstance(text, schema.TextFormat):
        shape = None
    choice: Any = asked.tool_choice
    if isinstance(choice, Choice):
        choice = schema.ToolChoice(schema.Named(choice.name))
    wants_odds = _LOGPROBS in (asked.include or ()) or bool(asked.top_logprobs)
    return schema.Chat(
        model=asked.model,
        messages=messages,
        stream=asked.stream,
        max_tokens=asked.max_output_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        logprobs=True if wants_odds else None,
        top_logprobs=asked.top_logprobs,
        tools=[_tool(each) for each in asked.tools] if asked.tools else None,
        tool_choice=choice,
        parallel_tool_calls=asked.parallel_tool_calls,
        response_format=shape,
        reasoning_effort=asked.reasoning.effort if asked.reasoning else None,
    )


_LOGPROBS = "message.output_text.logprobs"
_INCLUDED = {_LOGPROBS, "reasoning.encrypted_content"}
"""The second is asked for by programs that keep nothing; they get thoughts in clear instead."""


def _kept(asked: Asked) -> Refusal | None:
    """Refuse what would need a memory of earlier requests, or of this one."""
    if asked.previous_response_id is not None:
        return invalid("gateway.nothing-kept", "previous_response_id", "unsupported_parameter")
    if asked.store:
        return invalid("gateway.nothing-kept", "store", "unsupported_parameter")
    if asked.background:
        return invalid("gateway.nothing-kept", "background", "unsupported_parameter")
    for index, wanted in enumerate(asked.include or ()):
        if wanted not in _INCLUDED:
            return _not_a_choice(f"include[{index}]", wanted)
    return None


def _not_a_choice(path: str, given: str) -> Refusal:
    shown = f"'{given}'"
    return invalid("gateway.not-a-choice", path, value=shown)


def told(asked: Asked) -> Told:
    """Return what its answer will say again."""
    return Told(
        instructions=asked.instructions,
        max_output_tokens=asked.max_output_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        tools=asked.tools or [],
        tool_choice=asked.tool_choice or "auto",
        parallel_tool_calls=asked.parallel_tool_calls is not False,
        text=TextOptions((asked.text and asked.text.format) or schema.TextFormat()),
        reasoning=Reasoning(asked.reasoning.effort if asked.reasoning else None),
        metadata=asked.metadata or {},
    )


def _tool(given: Function) -> schema.Tool:
    function = schema.Function(given.name, given.description, given.parameters, given.strict)
    return schema.Tool(function)


def _messages(asked: Asked) -> list[schema.ChatMessage] | Refusal:
    """Bring a conversation into the order of a chat: calls and thoughts belong to their turn."""
    said: list[schema.ChatMessage] = []
    if asked.instructions:
        said.append(schema.SystemMessage(content=asked.instructions))
    if isinstance(asked.input, str):
        return [*said, schema.UserMessage(content=asked.input)]
    thought: str | None = None
    for index, item in enumerate(asked.input):
        path = f"input[{index}]"
        if refused := _lacking(item, path):
            return refused
        if item.type == "reasoning":
            thought = _words(item.content) or None
        elif item.type == "function_call_output":
            output = item.output if isinstance(item.output, str) else _words(item.output)
            said.append(schema.ToolMessage(content=output, tool_call_id=item.call_id or ""))
        elif item.type == "function_call":
            _call(said, item, thought)
            thought = None
        else:
            turn = _turn(item, path, thought)
            if isinstance(turn, Refusal):
                return turn
            said.append(turn)
            thought = None
    return said or invalid("gateway.field-missing", "input", field="input[0]")


_NEEDED = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "reasoning": (),
}
_OWN = {name for names in _NEEDED.values() for name in names} | {"summary", "phase"}
_MAY = {"message": {"phase"}, "reasoning": {"content", "summary"}}


def _lacking(item: Item, path: str) -> Refusal | None:
    """Refuse an entry that lacks a field of its kind, or has one of another."""
    needed = _NEEDED[item.type]
    for name in needed:
        field = f"{path}.{name}"
        if getattr(item, name) is None:
            return invalid("gateway.field-missing", path, field=field)
    for name in _OWN.difference(needed, _MAY.get(item.type, ())):
        field = f"{path}.{name}"
        if getattr(item, name) is not None:
            return invalid("gateway.unknown-field", field, "unknown_field")
    return None


def _call(said: list[schema.ChatMessage], item: Item, thought: str | None) -> None:
    """Add a call to the turn in which it was made."""
    assert item.call_id is not None
    assert item.name is not None
    call = schema.ToolCall(item.call_id, schema.Call(item.name, item.arguments or ""))
    last = said[-1] if said else None
    if isinstance(last, schema.AssistantMessage) and thought is None:
        last.tool_calls = [*(last.tool_calls or ()), call]
    else:
        said.append(schema.AssistantMessage(reasoning_content=thought, tool_calls=[call]))


def _turn(item: Item, path: str, thought: str | None) -> schema.ChatMessage | Refusal:
    """Say one message as a turn of a chat."""
    content = item.content
    wanted: tuple[type[Struct], ...] = (InputText, InputImage)
    if item.role == "assistant":
        wanted = (OutputText, schema.RefusalPart, InputText)
    elif item.role != "user":
        wanted = (InputText,)
    for index, part in enumerate(content if isinstance(content, list) else ()):
        if not isinstance(part, wanted):
            kind = part.__struct_config__.tag
            return _not_a_choice(f"{path}.content[{index}].type", str(kind))
    if item.role == "assistant":
        return schema.AssistantMessage(content=_words(content), reasoning_content=thought)
    if item.role == "user":
        return schema.UserMessage(content=_shown(content))
    if item.role == "system":
        return schema.SystemMessage(content=_words(content))
    return schema.DeveloperMessage(content=_words(content))


def _words(content: Any) -> str:
    """Return the text of all parts."""
    if isinstance(content, str):
        return content
    return "".join(
        part.refusal if isinstance(part, schema.RefusalPart) else part.text
        for part in content or ()
        if not isinstance(part, InputImage)
    )


def _shown(content: Any) -> Any:
    """Return what a person said and showed, as parts where a picture is among it."""
    if isinstance(content, str) or not any(isinstance(part, InputImage) for part in content):
        return _words(content)
    return [
        schema.ImagePart(schema.Image(part.image_url, part.detail))
        if isinstance(part, InputImage)
        else schema.TextPart(part.text)
        for part in content
    ]
