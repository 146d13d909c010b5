"""Sweeps as people apply them: made whole, refused in words, steered together."""

from __future__ import annotations

from .conftest import Yard

TRY = {
    "kind": "job", "name": "try", "command": "true {lr}", "sweep": {"lr": [0.1, 0.2]},
    "needs": {"accelerator": "none/such"},
}  # fmt: skip
"""Its jobs wait for room that never comes."""


async def test_its_jobs_are_there_with_their_values_and_can_be_ended_but_not_changed(
    yard: Yard,
) -> None:
    await yard.apply(TRY)
    await yard.until("job", "try", "running")
    one = await yard.get("job/try-1")
    assert (one["status"]["owner"], one["status"]["swept"]) == ("try", {"lr": 0.1})
    told = (await yard.get("job/try/sweep"))["jobs"]
    assert [(each["name"], each["values"]) for each in told] == [
        ("try-1", {"lr": 0.1}), ("try-2", {"lr": 0.2}),
    ]  # fmt: skip
    written = {**one["spec"], "kind": "job", "name": "try-1"}
    refused = await yard.client.post(
        "/api/v1/apply", json={"documents": [{**written, "suspend": True}]}
    )
    assert refused.json()["error"]["code"] == "job.of-a-sweep"
    await yard.apply({**TRY, "cancel": True})
    await yard.until("job", "try", "cancelled")
    assert (await yard.get("job/try-2"))["status"]["phase"] == "cancelled"


async def test_a_sweep_whose_jobs_would_have_no_names_is_refused(yard: Yard) -> None:
    answer = await yard.client.post(
        "/api/v1/apply", json={"documents": [{**TRY, "name": "t" * 62}]}
    )
    assert answer.json()["error"]["code"] == "sweep.name-long"
