"""What a request asks for that not every engine can: refused by name, never passed over.

An engine that lacks a skill often answers all the same, without what was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator

from madang.traffic import schema

Wish = tuple[str, str]
"""One of `table.SKILLS`, and the field that asks for it."""


def wishes(body: schema.Body) -> Iterator[Wish]:
    """Yield every skill that a request needs."""
    if isinstance(body, schema.Embedding):
        return
    if body.n and body.n > 1:
        yield "choices", "n"
    if body.logprobs:
        yield "logprobs", "logprobs"
    yield from _of_chat(body) if isinstance(body, schema.Chat) else _of_completion(body)


def _of_completion(body: schema.Completion) -> Iterator[Wish]:
    if body.echo:
        yield "echo", "echo"
    prompts = body.prompt
    if isinstance(prompts, list) and len(prompts) > 1 and not isinstance(prompts[0], int):
        yield "prompts", "prompt"


def _of_chat(body: schema.Chat) -> Iterator[Wish]:
    if body.top_logprobs:
        yield "logprobs", "top_logprobs"
    if body.tools and body.tool_choice != "none":
        yield "tools", "tools"
    if not isinstance(body.response_format, schema.TextFormat | None):
        yield "json", "response_format"
    if body.reasoning_effort not in {None, "none"}:
        yield "reasoning", "reasoning_effort"
    for number, turn in enumerate(body.messages):
        if isinstance(turn.content, list):
            for index, part in enumerate(turn.content):
                if isinstance(part, schema.ImagePart):
                    yield "vision", f"messages[{number}].content[{index}]"
