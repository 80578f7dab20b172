"""How many requests are in flight to an endpoint: more while it is quick, fewer while it is slow or
refuses them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

from embeddings_pipeline.encoders.openai.in_flight import InFlight


def settled(most: int, *endpoints: Callable[[int], float]) -> list[int]:
    """The limit after 500 answers of each endpoint: a function of the number of requests in flight
    that returns the seconds of one."""

    async def limits() -> list[int]:
        found = []
        limits = InFlight(most)
        async with AsyncExitStack() as slots:
            held = 0
            for seconds in endpoints:
                for _ in range(500):
                    while held < limits.limit:
                        await slots.enter_async_context(limits.slot())
                        held += 1
                    limits.answered(1_000, seconds(limits.limit))
                found.append(limits.limit)
        return found

    return asyncio.run(limits())


def test_an_endpoint_that_takes_any_number_gets_as_many_as_are_allowed() -> None:
    assert settled(16, lambda n: 0.2) == [16]
    assert settled(2, lambda n: 0.2) == [2]


def test_an_endpoint_gets_few_more_than_it_has_machines() -> None:
    def fleet(machines: int) -> Callable[[int], float]:
        return lambda n: 0.2 * max(1, n / machines)

    assert 8 <= settled(64, fleet(8))[0] <= 24


def test_an_endpoint_that_becomes_slow_gets_one_at_a_time_and_then_as_many_as_before() -> None:
    limits = InFlight(16)
    for _ in range(100):
        limits.answered(1_000, 0.2)
    for _ in range(100):
        limits.answered(1_000, 2.0)
    assert limits.limit == 1
    assert settled(16, lambda n: 0.2, lambda n: 2.0) == [16, 16]


def test_short_requests_say_nothing() -> None:
    limits = InFlight(16)
    for _ in range(50):
        limits.answered(1, 0.06)
        limits.answered(1_000, 0.9)
    assert limits.limit == 4


def test_a_busy_machine_says_nothing() -> None:
    limits = InFlight(16)
    for seconds in [0.001, *[0.15] * 50]:
        limits.answered(1_000, seconds)
    assert limits.limit == 4


def test_requests_that_are_refused_together_halve_the_limit_once() -> None:
    limits = InFlight(16)
    sent_at = time.monotonic()
    for _ in range(4):
        limits.refused(sent_at)
    assert limits.limit == 2
    for _ in range(5):
        limits.refused(time.monotonic())
    assert limits.limit == 1


def test_a_request_waits_for_its_slot_and_takes_it_when_another_ends() -> None:
    async def most_at_once() -> int:
        limits, now, most = InFlight(3), 0, 0

        async def request() -> None:
            nonlocal now, most
            async with limits.slot():
                now += 1
                most = max(most, now)
                await asyncio.sleep(0)
                now -= 1

        await asyncio.gather(*(request() for _ in range(20)))
        return most

    assert asyncio.run(most_at_once()) == 3


def test_a_request_that_is_cancelled_while_it_waits_leaves_no_slot_taken() -> None:
    async def run() -> None:
        limits = InFlight(1)

        async def request() -> None:
            async with limits.slot():
                pass

        async with limits.slot():
            waiting = asyncio.create_task(request())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.wait_for(request(), 10)

    asyncio.run(run())
