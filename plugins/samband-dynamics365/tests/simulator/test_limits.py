"""Service protection limits."""

from __future__ import annotations

import asyncio
from typing import Any


async def test_requests_beyond_the_limit_are_refused_until_the_window_slides(api: Any) -> None:
    await api.control("config", {"limits": {"requests": 3, "window_s": 60}})
    replies = [await api.get("WhoAmI") for _ in range(4)]
    assert [reply.status for reply in replies] == [200, 200, 200, 429]
    assert replies[-1].code == "0x80072322"
    assert replies[-1].json()["error"]["message"] == (
        "Number of requests exceeded the limit of 3 over time window of 60 seconds."
    )
    assert 58 <= int(replies[-1].headers["Retry-After"]) <= 60
    await api.control("config", {"advance_s": 61})
    assert (await api.get("WhoAmI")).status == 200


async def test_retry_after_grows_while_a_client_keeps_pushing(api: Any) -> None:
    await api.control("config", {"limits": {"requests": 1, "window_s": 10, "growth_s": 5}})
    assert (await api.get("WhoAmI")).status == 200
    waits = [int((await api.get("WhoAmI")).headers["Retry-After"]) for _ in range(4)]
    assert waits == sorted(set(waits))
    assert waits[-1] >= 24
    await api.control("config", {"advance_s": waits[-1] + 1})
    assert (await api.get("WhoAmI")).status == 200


async def test_execution_time_is_a_budget(api: Any) -> None:
    await api.control("config", {"limits": {"execution_s": 10, "cost_s": 6}})
    replies = [await api.get("WhoAmI") for _ in range(3)]
    assert [reply.status for reply in replies] == [200, 200, 429]
    assert replies[-1].code == "0x80072321"
    assert "limit of 10,000 milliseconds over time window of 300 seconds" in replies[-1].json()["error"]["message"]


async def test_concurrency_bites_at_once(api: Any) -> None:
    await api.control("config", {"limits": {"concurrency": 2}, "switches": {"latency_s": 0.1}})
    replies = await asyncio.gather(*(api.get("WhoAmI") for _ in range(5)))
    refused = [reply for reply in replies if reply.status == 429]
    assert len(refused) == 3
    assert {reply.code for reply in refused} == {"0x80072326"}
    assert refused[0].json()["error"]["message"] == "Number of concurrent requests exceeded the limit of 2."
    assert (await api.get("WhoAmI")).status == 200


async def test_headers_count_down_what_is_left(api: Any) -> None:
    left = [int((await api.get("WhoAmI")).headers["x-ms-ratelimit-burst-remaining-xrm-requests"]) for _ in range(3)]
    assert left == [5999, 5998, 5997]


async def test_limits_are_per_user(api: Any) -> None:
    await api.control("config", {"limits": {"requests": 1}})
    assert [(await api.get("WhoAmI")).status for _ in range(2)] == [200, 429]
    other = "9d3e7a10-5c1b-4f6e-8d2a-0b4c6e8f1a35"
    user = next(i for i in api.state.organization.tables["systemuser"].ids if i != api.state.seeded.application_user)
    order = {
        "applications": [{"client_id": other, "secrets": {"s": None}}],
        "users": [{"client_id": other, "user_id": user}],
    }
    await api.control("config", order)
    await api.log_in(client_id=other, client_secret="s")
    assert (await api.get("WhoAmI")).status == 200


async def test_a_batch_counts_once_unless_switched(api: Any) -> None:
    body = b"".join(
        b"--b\r\nContent-Type: application/http\r\n\r\nGET /api/data/v9.2/WhoAmI HTTP/1.1\r\n\r\n\r\n" for _ in range(5)
    )
    options = {"data": body + b"--b--\r\n", "headers": {"Content-Type": "multipart/mixed; boundary=b"}}
    left = []
    for counted in (False, True):
        await api.control("config", {"switches": {"batch_counts_parts": counted}, "limits": {}})
        reply = await api.send("POST", "$batch", **options)
        left.append(int(reply.headers["x-ms-ratelimit-burst-remaining-xrm-requests"]))
    assert left == [5999, 5995]
