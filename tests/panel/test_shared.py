"""Those who ask the same at the same time share an answer that is not too old for any of them."""

import asyncio

import pytest

from errors import AppError, unavailable
from panel.shared import Shared


class Shelf:
    """Counts how often it is read; a read takes until it is let go."""

    def __init__(self) -> None:
        self.content = "nothing"
        self.reads = 0
        self.trouble: AppError | None = None
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    async def read(self, key: str) -> str:
        found = f"{key}: {self.content}"
        self.reads += 1
        self.begun.set()
        await self.go_on.wait()
        if self.trouble:
            raise self.trouble
        return found


async def test_many_who_ask_at_once_cost_one_read() -> None:
    shelf = Shelf()
    shelf.go_on.set()
    shared = Shared(shelf.read)
    answers = await asyncio.gather(*(shared.ask("a") for _ in range(20)))
    assert answers == ["a: nothing"] * 20
    assert shelf.reads == 1


async def test_who_asks_during_a_read_gets_one_that_began_later() -> None:
    shelf = Shelf()
    shared = Shared(shelf.read)
    early = asyncio.create_task(shared.ask("a"))
    await shelf.begun.wait()
    shelf.content = "a book"
    late = [asyncio.create_task(shared.ask("a")) for _ in range(3)]
    await asyncio.sleep(0)
    shelf.go_on.set()
    assert await early == "a: nothing"
    assert await asyncio.gather(*late) == ["a: a book"] * 3
    assert shelf.reads == 2


async def test_one_key_does_not_wait_for_another() -> None:
    shelf = Shelf()
    shared = Shared(shelf.read)
    both = asyncio.gather(shared.ask("a"), shared.ask("b"))
    while shelf.reads < 2:
        await asyncio.sleep(0)
    shelf.go_on.set()
    assert list(await both) == ["a: nothing", "b: nothing"]


async def test_a_failure_is_told_to_each_and_forgotten() -> None:
    shelf = Shelf()
    shelf.go_on.set()
    shelf.trouble = unavailable("The shelf is locked.")
    shared = Shared(shelf.read)
    told = await asyncio.gather(shared.ask("a"), shared.ask("a"), return_exceptions=True)
    assert [str(error) for error in told] == ["The shelf is locked."] * 2
    shelf.trouble = None
    assert await shared.ask("a") == "a: nothing"


async def test_one_who_gives_up_takes_no_answer_from_the_others() -> None:
    shelf = Shelf()
    shared = Shared(shelf.read)
    impatient, patient = (asyncio.create_task(shared.ask("a")) for _ in range(2))
    await shelf.begun.wait()
    impatient.cancel()
    shelf.go_on.set()
    assert await patient == "a: nothing"
    with pytest.raises(asyncio.CancelledError):
        await impatient
