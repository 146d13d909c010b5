"""`madang chat`: talk to a service through the gateway, one question or many."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from madang.answers import Message
from madang.cli.kinds import naming
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import say, show_json, tell, word
from madang.client import Client
from madang.errors import Rejected

TURNS_MAX = 40
"""How many messages of a conversation are sent along; older ones are forgotten."""
QUESTION_CHARACTERS_MAX = 1_000_000


def chat(
    service: str | None = None,
    question: str | None = None,
    /,
    *,
    max_tokens: Annotated[PositiveInt | None, Parameter(show_default=False)] = None,
    options: Options = DEFAULTS,
) -> None:
    """Ask a service, or talk to it when no question is given.

    Parameters
    ----------
    service
        A service of the project; may be left out where there is only one.
    question
        What to ask; without one, every line that you type is one.
    max_tokens
        How long an answer may be; without it, as long as the model likes.
    """
    limits = {"max_tokens": max_tokens} if max_tokens else {}
    with options.client() as client:
        service, question = _meant(client, service, question)
        if question is None and not sys.stdin.isatty():
            question = sys.stdin.read(QUESTION_CHARACTERS_MAX).strip()
        if question is None:
            with naming(client, "service", service):
                _talk(client, service, limits)
        elif question:
            with naming(client, "service", service):
                _ask(client, service, question, limits, as_json=options.json)
        else:
            raise Rejected("chat.no-question")


def _meant(client: Client, service: str | None, question: str | None) -> tuple[str, str | None]:
    """Tell a service from a question: what stands alone and has a space is a question.

    A service that is named needs no control: the gateway knows it.
    """
    if service is not None and (question is not None or " " not in service):
        return service, question
    names = [r["name"] for r in client.list("service")["items"]]
    if len(names) != 1:
        raise Rejected("chat.which-service", count=len(names), names=", ".join(names))
    return names[0], service


def _ask(
    client: Client, service: str, question: str, limits: dict[str, int], *, as_json: bool
) -> None:
    began = time.monotonic()
    first_token_s, pieces = None, []
    for piece in client.chat(service, [Message(role="user", content=question)], **limits):
        first_token_s = first_token_s or round(time.monotonic() - began, 4)
        pieces.append(piece)
        if not as_json:
            say(piece, end="")
    if as_json:
        answer = "".join(pieces)
        show_json({"service": service, "answer": answer, "first_token_s": first_token_s})
    else:
        say()


def _talk(client: Client, service: str, limits: dict[str, int]) -> None:
    """Answer line by line; every answer is part of the next question."""
    tell("chat.begin", service=service)
    said: list[Message] = []
    for question in _questions():
        said.append(Message(role="user", content=question))
        answer = ""
        for piece in client.chat(service, said[-TURNS_MAX:], **limits):
            answer += piece
            say(piece, end="")
        say()
        said.append(Message(role="assistant", content=answer))


def _questions() -> Iterator[str]:
    prompt = word("chat.prompt") + " "
    while True:
        try:
            question = input(prompt).strip()
        except EOFError:
            say()
            return
        if question:
            yield question
