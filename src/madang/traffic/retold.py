"""The answer of a chat, told as the answer of `responses`: whole, or event by event.

A chat streams pieces; here each piece belongs to an entry, and each entry begins and ends.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import DecodeError, Struct, field, json

from madang.traffic.responses import Told

_TEXTS = {"message": "output_text", "reasoning": "reasoning_text"}
_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}
_ENDS = {"length": "max_output_tokens", "content_filter": "content_filter"}
_DONE = b"[DONE]"


class _Function(Struct):
    name: str | None = None
    arguments: str | None = None


class _CallPiece(Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Piece(Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_CallPiece] | None = None


class _Odds(Struct):
    content: list[dict[str, Any]] | None = None


class _Choice(Struct):
    delta: _Piece | None = None
    message: _Piece | None = None
    logprobs: _Odds | None = None
    finish_reason: str | None = None


class _Prompt(Struct):
    cached_tokens: int | None = None


class _Output(Struct):
    reasoning_tokens: int | None = None


class _Usage(Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Prompt | None = None
    completion_tokens_details: _Output | None = None


class _Answer(Struct):
    choices: list[_Choice] = field(default_factory=list)
    created: int = 0
    usage: _Usage | None = None


_DECODER = json.Decoder(_Answer)
_ENCODER = json.Encoder()
_Kind = Literal["reasoning", "message", "function_call"]


class _Entry(Struct):
    """One entry of the answer, as far as it has come."""

    kind: _Kind
    id: str
    place: int
    text: str = ""
    name: str = ""
    call_id: str = ""
    odds: list[Any] = field(default_factory=list)

    def shown(self, status: str) -> dict[str, Any]:
        """Return it as clients read it."""
        if self.kind == "function_call":
            call = {"call_id": self.call_id, "name": self.name, "arguments": self.text}
            return {"type": self.kind, "id": self.id, "status": status, **call}
        if self.kind == "reasoning":
            content = [{"type": "reasoning_text", "text": self.text}] if self.text else []
            told = {"summary": [], "content": content}
            return {"type": self.kind, "id": self.id, "status": status, **told}
        content = [self.part()] if status != "in_progress" else []
        return {
            "type": self.kind, "id": self.id, "status": status, "role": "assistant",
            "content": content,
        }  # fmt: skip

    def part(self) -> dict[str, Any]:
        """Return its only part."""
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": self.text}
        return {
            "type": "output_text", "text": self.text, "annotations": [], "logprobs": self.odds,
        }  # fmt: skip


class Retold:
    """One answer; `name` is its own, `model` is what the application called."""

    def __init__(self, name: str, model: str, told: Told) -> None:
        self._id = name
        self._model = model
        self._told = told
        self._entries: list[_Entry] = []
        self._open: _Entry | None = None
        self._calls: dict[int, _Entry] = {}
        self._created = 0
        self._finish = "stop"
        self._usage: _Usage | None = None
        self._count = 0

    def whole(self, body: bytes) -> bytes:
        """Tell an answer in one piece; raises ValueError for what is none of a chat."""
        answer = _read(body)
        self._note(answer)
        for choice in answer.choices[:1]:
            said = choice.message or _Piece()
            if said.reasoning_content:
                self._begin("reasoning").text = said.reasoning_content
            if said.content or said.refusal or not said.tool_calls:
                entry = self._begin("message")
                entry.text = said.content or said.refusal or ""
                entry.odds = _odds(choice)
            for call in said.tool_calls or ():
                _fill(self._begin("function_call"), call)
        return _ENCODER.encode(self._card(self._status))

    def feed(self, events: bytes) -> bytes:
        """Tell some whole events of a stream; raises ValueError for what is none of a chat."""
        made: list[bytes] = []
        for line in events.splitlines():
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == _DONE:
                self._close(made)
                made.append(self._event(f"response.{self._status}", self._response(self._status)))
                continue
            answer = _read(data)
            if not self._count:
                self._created = answer.created
                made.append(self._event("response.created", self._response("in_progress")))
                made.append(self._event("response.in_progress", self._response("in_progress")))
            self._note(answer)
            for choice in answer.choices[:1]:
                self._piece(choice, made)
        return b"".join(made)

    def _note(self, answer: _Answer) -> None:
        self._created = self._created or answer.created
        self._usage = answer.usage or self._usage
        for choice in answer.choices[:1]:
            self._finish = choice.finish_reason or self._finish

    def _piece(self, choice: _Choice, made: list[bytes]) -> None:
        said = choice.delta or _Piece()
        if said.reasoning_content:
            self._add("reasoning", said.reasoning_content, made, [])
        if text := said.content or said.refusal:
            self._add("message", text, made, _odds(choice))
        for call in said.tool_calls or ():
            if call.index not in self._calls:
                self._close(made)
                self._calls[call.index] = entry = self._begin("function_call")
                _fill(entry, call)
                self._open = entry
                made.append(self._item("added", entry, "in_progress"))
            else:
                entry = self._calls[call.index]
                _fill(entry, call)
            if piece := (call.function and call.function.arguments):
                made.append(self._at("response.function_call_arguments.delta", entry, delta=piece))

    def _add(self, kind: _Kind, text: str, made: list[bytes], odds: list[Any]) -> None:
        """Put a piece of text to its entry, a new one where another kind came last."""
        entry = self._open
        if entry is None or entry.kind != kind:
            self._close(made)
            self._open = entry = self._begin(kind)
            made.append(self._item("added", entry, "in_progress"))
            made.append(self._at("response.content_part.added", entry, part=entry.part()))
        entry.text += text
        entry.odds += odds
        more = {"logprobs": odds} if kind == "message" else {}
        made.append(self._at(f"response.{_TEXTS[kind]}.delta", entry, delta=text, **more))

    def _close(self, made: list[bytes]) -> None:
        """Say of the entry that is open that it is whole."""
        entry, self._open = self._open, None
        if entry is None:
            return
        if entry.kind == "function_call":
            whole = {"name": entry.name, "arguments": entry.text}
            made.append(self._at("response.function_call_arguments.done", entry, **whole))
        else:
            more = {"logprobs": entry.odds} if entry.kind == "message" else {}
            name = f"response.{_TEXTS[entry.kind]}.done"
            made.append(self._at(name, entry, text=entry.text, **more))
            made.append(self._at("response.content_part.done", entry, part=entry.part()))
        made.append(self._item("done", entry, self._status))

    def _begin(self, kind: _Kind) -> _Entry:
        place = len(self._entries)
        entry = _Entry(kind, f"{_PREFIXES[kind]}_{self._id}_{place}", place)
        self._entries.append(entry)
        return entry

    @property
    def _status(self) -> Literal["completed", "incomplete"]:
        return "incomplete" if self._finish in _ENDS else "completed"

    def _item(self, what: str, entry: _Entry, status: str) -> bytes:
        shown = {"output_index": entry.place, "item": entry.shown(status)}
        return self._event(f"response.output_item.{what}", shown)

    def _at(self, event: str, entry: _Entry, **more: Any) -> bytes:
        where = {"item_id": entry.id, "output_index": entry.place}
        inside = {} if entry.kind == "function_call" else {"content_index": 0}
        return self._event(event, where | inside | more)

    def _event(self, name: str, body: dict[str, Any]) -> bytes:
        told = {"type": name, "sequence_number": self._count, **body}
        self._count += 1
        return b"event: %b\ndata: %b\n\n" % (name.encode(), _ENCODER.encode(told))

    def _response(self, status: str) -> dict[str, Any]:
        return {"response": self._card(status)}

    def _card(self, status: str) -> dict[str, Any]:
        """Return the answer as it stands; what was asked is said again."""
        told = self._told
        cause = {"reason": _ENDS[self._finish]} if status == "incomplete" else None
        is_over = status != "in_progress"
        return {
            "id": f"resp_{self._id}",
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": cause,
            "instructions": told.instructions,
            "max_output_tokens": told.max_output_tokens,
            "metadata": told.metadata,
            "model": self._model,
            "output": [each.shown(status) for each in self._entries] if is_over else [],
            "parallel_tool_calls": told.parallel_tool_calls,
            "previous_response_id": None,
            "reasoning": {"effort": told.reasoning.effort, "summary": None},
            "store": False,
            "temperature": told.temperature,
            "text": told.text,
            "tool_choice": told.tool_choice,
            "tools": told.tools,
            "top_p": told.top_p,
            "truncation": "disabled",
            "usage": _usage(self._usage) if is_over else None,
        }


def _read(body: bytes) -> _Answer:
    try:
        return _DECODER.decode(body)
    except (DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("this is no answer of a chat") from error


def _fill(entry: _Entry, call: _CallPiece) -> None:
    """Add what a piece says of a call."""
    entry.call_id = entry.call_id or call.id or entry.id
    if call.function:
        entry.name = entry.name or call.function.name or ""
        entry.text += call.function.arguments or ""


def _odds(choice: _Choice) -> list[Any]:
    """Return the odds of tokens that came with a piece."""
    return list((choice.logprobs and choice.logprobs.content) or ())


def _usage(said: _Usage | None) -> dict[str, Any] | None:
    if said is None:
        return None
    cached = said.prompt_tokens_details.cached_tokens if said.prompt_tokens_details else 0
    thought = said.completion_tokens_details
    return {
        "input_tokens": said.prompt_tokens,
        "input_tokens_details": {"cached_tokens": cached or 0, "cache_write_tokens": 0},
        "output_tokens": said.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": (thought and thought.reasoning_tokens) or 0},
        "total_tokens": said.prompt_tokens + said.completion_tokens,
    }
