"""Every bound that a request meets in the gateway, with its unit; tests and settings may differ."""

from __future__ import annotations

from msgspec import Struct


class Limits(Struct, frozen=True, kw_only=True):
    """The bounds of one gateway process."""

    requests_max: int = 1000
    """Requests in hand at once, under way or waiting; one more is refused with 503."""
    slot_requests_max: int = 2
    """Requests under way at a replica, for each of its slots: the next is there when one ends."""
    unread_tokens_max: float = 8192.0
    """Tokens that replicas are to have to read, each on average.

    Once they have, whoever goes on sending and has a quarter of it there waits for a turn here, and
    not in the queue of an engine, where all would wait. Who had nothing there may send all of it.
    """
    prefixes_max: int = 200_000
    """Beginnings of prompts that are remembered: about 20 MB."""
    slack_tokens: float = 200_000.0
    """So much of its share may be taken before by whom a prompt that is cached is waiting for."""
    slack_s: float = 4.0
    """And no more than its replicas read in so long: else nobody else would be served in time by
    slow ones."""
    held_per_slot: int = 8
    """Requests that wait for an endpoint, for each slot of its replicas; one more is refused."""
    held_max: int = 512
    """And at most."""
    held_bytes_max: int = 32 << 20
    """Bodies of all that wait for one endpoint."""
    held_tokens_max: int = 2_000_000
    """Their prompts, as estimated."""
    held_s: float = 30.0
    """Longest wait for a turn; who waits longer is refused before any engine sees the request.

    An endpoint may say otherwise."""
    body_bytes_max: int = 4 << 20
    """Largest request body."""
    bodies_bytes_max: int = 256 << 20
    """Bodies of all requests in hand."""
    body_s: float = 60.0
    """Time for a request body to arrive in full."""
    answer_bytes_max: int = 64 << 20
    """Largest answer that is not a stream: 2,048 embeddings fit."""
    event_bytes_max: int = 1 << 20
    """Largest single event of a stream."""
    connect_s: float = 2.0
    """Time for an engine to take a connection."""
    first_byte_s: float = 300.0
    """Time for an engine to begin its answer: a long prompt on a slow device."""
    gap_s: float = 120.0
    """Longest silence of an engine in the middle of its answer."""
    linger_s: float = 1.0
    """Time for an engine to end its answer once it has said that this was all."""
    client_s: float = 30.0
    """Longest time for a client to take what it was sent, but for what fits the buffers."""
    stale_table_s: float = 5.0
    """An unknown key is called unknown only while control has been heard within this time."""
    out_s: float = 1.0
    """How long a failing target is left alone at first; doubled at each further failure."""
    out_s_max: float = 30.0
    """And at most."""
    suspect_s: float = 5.0
    """A target that lets requests wait so long without a byte is asked only if no other can be."""
