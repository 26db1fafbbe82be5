"""Who may go next."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessions import admission
from sessions.admission import GIB, MIB, Policy, Slots


def ignore(place: int) -> None:
    pass


class Visitor:
    """Somebody who wants a place, keeps it until told, and notes when it was given."""

    def __init__(
        self, slots: Slots, user: str, order: list[str], on_wait: Callable[[int], None]
    ) -> None:
        self.user = user
        self.inside = False
        self.asking = False
        self._go = asyncio.Event()
        self._order = order
        self.task = asyncio.ensure_future(self._visit(slots, on_wait))

    async def _visit(self, slots: Slots, on_wait: Callable[[int], None]) -> None:
        async with slots.place(self.user, on_wait):
            self._order.append(self.user)
            self.inside = True
            try:
                await self._go.wait()
            finally:
                self.inside = False

    async def leave(self) -> None:
        self._go.set()
        await self.task
        await settle()

    async def cancel(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class Crowd:
    def __init__(self, capacity: int) -> None:
        self.slots = Slots(capacity)
        self.order: list[str] = []
        self.places: list[int] = []

    async def come(self, *users: str) -> list[Visitor]:
        come = [Visitor(self.slots, user, self.order, self.places.append) for user in users]
        await settle()
        return come


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


# Policy


def test_two_cores_and_24_gibibytes_are_what_was_measured() -> None:
    policy = Policy.for_machine(2, 24 * GIB)
    assert (policy.starts, policy.running, policy.resident) == (2, 6, 16)
    assert (policy.idle_seconds, policy.queue) == (1800, 20)
    assert (policy.memory_floor, policy.recycle_bytes) == (0.15, 600 * MIB)
    assert (policy.start_seconds, policy.silence_seconds) == (10, 120)
    assert (policy.tool_seconds, policy.ask_seconds) == (1800, 600)


@pytest.mark.parametrize(
    ("cores", "memory", "resident"),
    [
        (2, 24 * GIB - 300 * MIB, 16),
        (1, GIB, 2),
        (2, 6 * GIB, 4),
        (8, 24 * GIB, 16),
        (8, 96 * GIB, 64),
    ],
)
def test_other_machines_are_scaled_by_what_they_have_least_of(
    cores: int, memory: int, resident: int
) -> None:
    policy = Policy.for_machine(cores, memory)
    assert policy.resident == resident
    assert policy.starts == cores
    assert policy.running == max(2, 3 * cores)


def test_the_operators_own_figures_count() -> None:
    policy = Policy.for_machine(2, 24 * GIB, resident=5, idle_seconds=60)
    assert (policy.resident, policy.idle_seconds) == (5, 60)


def test_memory_is_what_the_kernel_says() -> None:
    available, total = admission.memory()
    assert 0 < available < total
    assert f"MemTotal: {total // 1024:>14} kB" in Path("/proc/meminfo").read_text()


# Places


async def test_no_more_are_inside_than_there_are_places() -> None:
    crowd = Crowd(2)
    first, second, third = await crowd.come("ann", "ann", "ann")
    assert (first.inside, second.inside, third.inside) == (True, True, False)
    assert (crowd.slots.taken, crowd.slots.waiting) == (2, 1)
    assert crowd.places == [1]
    await first.leave()
    assert third.inside
    assert (crowd.slots.taken, crowd.slots.waiting) == (2, 0)
    for visitor in (second, third):
        await visitor.leave()
    assert crowd.slots.taken == 0


async def test_a_free_place_goes_to_the_user_who_holds_the_fewest() -> None:
    crowd = Crowd(3)
    hogs = await crowd.come("ann", "ann", "ann")
    waiting = await crowd.come("ann", "ann", "bob", "bob", "cid")
    for hog in hogs:
        await hog.leave()
    assert crowd.order[3:] == ["bob", "cid", "ann"]
    assert [visitor.inside for visitor in waiting] == [True, False, True, False, True]
    for visitor in (waiting[4], waiting[2], waiting[0]):
        await visitor.leave()
    assert crowd.order[6:] == ["ann", "bob"]
    for visitor in waiting:
        await visitor.leave()
    assert (crowd.slots.taken, crowd.slots.waiting) == (0, 0)


async def test_users_who_hold_the_same_go_in_the_order_they_came() -> None:
    crowd = Crowd(1)
    [first] = await crowd.come("ann")
    waiting = await crowd.come("cid", "bob", "dan", "bob")
    await first.leave()
    for visitor in waiting:
        assert visitor.inside
        await visitor.leave()
    assert crowd.order == ["ann", "cid", "bob", "dan", "bob"]


async def test_whoever_comes_does_not_overtake_those_who_wait() -> None:
    crowd = Crowd(1)
    [first] = await crowd.come("ann")
    [second] = await crowd.come("bob")
    first._go.set()
    await first.task
    [late] = await crowd.come("cid")
    assert second.inside
    assert not late.inside
    await second.leave()
    await late.leave()


async def test_a_place_is_given_back_when_its_work_fails() -> None:
    slots = Slots(1)
    with pytest.raises(ValueError, match="broke"):
        async with slots.place("ann", ignore):
            raise ValueError("broke")
    assert slots.taken == 0


async def test_whoever_stops_waiting_leaves_the_line() -> None:
    crowd = Crowd(1)
    [first] = await crowd.come("ann")
    gone, stays = await crowd.come("bob", "cid")
    await gone.cancel()
    assert crowd.slots.waiting == 1
    await first.leave()
    assert stays.inside
    await stays.leave()
    assert (crowd.slots.taken, crowd.slots.waiting) == (0, 0)


async def test_whoever_is_cancelled_when_just_admitted_gives_the_place_on() -> None:
    crowd = Crowd(1)
    [first] = await crowd.come("ann")
    unlucky, next_one = await crowd.come("bob", "cid")
    first._go.set()
    await asyncio.sleep(0)  # the place is given; its new holder has not woken up
    await unlucky.cancel()
    await settle()
    assert next_one.inside
    await next_one.leave()
    assert (crowd.slots.taken, crowd.slots.waiting) == (0, 0)


async def test_a_place_that_comes_free_while_somebody_is_being_cancelled_is_not_lost() -> None:
    crowd = Crowd(1)
    [first] = await crowd.come("ann")
    unlucky, next_one = await crowd.come("bob", "cid")
    unlucky.task.cancel()
    crowd.slots.give_back("ann")  # before the cancelled one has had time to leave the line
    await settle()
    assert next_one.inside
    crowd.slots.lend("ann")
    for visitor in (first, next_one):
        await visitor.leave()
    assert (crowd.slots.taken, crowd.slots.waiting) == (0, 0)


async def test_whoever_comes_behind_one_who_is_being_cancelled_does_not_wait_for_ever() -> None:
    crowd = Crowd(1)
    [first] = await crowd.come("ann")
    [unlucky] = await crowd.come("bob")
    coming = asyncio.ensure_future(crowd.come("cid"))
    unlucky.task.cancel()
    crowd.slots.give_back("ann")
    [late] = await coming
    assert late.inside
    crowd.slots.lend("ann")
    for visitor in (first, late):
        await visitor.leave()
    assert (crowd.slots.taken, crowd.slots.waiting) == (0, 0)


async def test_a_place_that_is_lent_goes_over_the_number_for_a_while() -> None:
    crowd = Crowd(1)
    [asking] = await crowd.come("ann")
    crowd.slots.give_back("ann")  # it waits for a person
    [other] = await crowd.come("bob")
    assert other.inside
    crowd.slots.lend("ann")
    assert crowd.slots.taken == 2
    [third] = await crowd.come("cid")
    inside = [third.inside]
    await other.leave()
    inside.append(third.inside)
    await asking.leave()
    assert [*inside, third.inside] == [False, False, True]
    await third.leave()
    assert crowd.slots.taken == 0


STEPS = st.lists(
    st.tuples(st.sampled_from(["come", "leave", "cancel", "ask", "pause"]), st.integers(0, 20)),
    max_size=60,
)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3), STEPS)
def test_no_place_is_lost_and_none_is_given_twice(
    capacity: int, steps: list[tuple[str, int]]
) -> None:
    async def play() -> None:
        crowd = Crowd(capacity)
        visitors: list[Visitor] = []
        for step, number in steps:
            chosen = visitors[number % len(visitors)] if visitors else None
            if step == "come":
                user = "abc"[number % 3]
                visitors.append(Visitor(crowd.slots, user, crowd.order, crowd.places.append))
            elif step == "leave" and chosen and not chosen.asking:
                chosen._go.set()
            elif step == "cancel" and chosen and not chosen.asking:
                chosen.task.cancel()
            elif step == "ask" and chosen and chosen.inside and not chosen.asking:
                chosen.asking = True
                crowd.slots.give_back(chosen.user)
            elif step == "pause":
                await asyncio.sleep(0)
            working = [visitor for visitor in visitors if visitor.inside and not visitor.asking]
            assert len(working) <= capacity
        await settle()
        for visitor in visitors:
            if visitor.asking:
                crowd.slots.lend(visitor.user)
        await settle()
        inside = sum(visitor.inside for visitor in visitors)
        assert crowd.slots.taken == inside
        assert inside >= capacity or crowd.slots.waiting == 0
        for visitor in visitors:
            visitor._go.set()
        await asyncio.gather(*(visitor.task for visitor in visitors), return_exceptions=True)
        assert (crowd.slots.taken, crowd.slots.waiting) == (0, 0)

    asyncio.run(play())
