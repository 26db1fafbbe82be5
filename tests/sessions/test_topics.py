"""Bounded streams: a topic waits for nobody, and a reader that lags is let go."""

import asyncio
import tracemalloc

import pytest

from sessions.topics import BACKLOG, PIECE, Reader, Topic


def ignore() -> None:
    pass


async def everything(reader: Reader) -> bytes:
    """To the end of the stream."""
    parts = []
    while batch := await reader.batch():
        parts.append(batch)
    return b"".join(parts)


def ready(reader: Reader) -> asyncio.Task[bytes]:
    return asyncio.ensure_future(reader.batch())


async def test_a_reader_gets_what_is_published_after_it_came() -> None:
    topic = Topic()
    topic.publish(1, b"before\n")
    reader = topic.follow(None, ignore)
    topic.publish(1, b"one\n")
    topic.publish(2, b"two\n")
    assert await reader.batch() == b"one\ntwo\n"
    waiting = ready(reader)
    await asyncio.sleep(0)
    assert not waiting.done()
    topic.publish(2, b"three\n")
    assert await waiting == b"three\n"


async def test_a_turns_reader_gets_that_turn_and_then_its_end() -> None:
    topic = Topic()
    one, two, all_turns = (
        topic.follow(1, ignore),
        topic.follow(2, ignore),
        topic.follow(None, ignore),
    )
    for turn, line in ((1, b"a\n"), (2, b"b\n"), (1, b"c\n")):
        topic.publish(turn, line)
    topic.end_turn(1)
    topic.publish(1, b"too late\n")
    assert await everything(one) == b"a\nc\n"
    assert await two.batch() == b"b\n"
    assert await all_turns.batch() == b"a\nb\nc\ntoo late\n"
    assert topic.followed


async def test_the_end_comes_after_everything_that_was_said() -> None:
    topic = Topic()
    reader, waiting = topic.follow(None, ignore), topic.follow(None, ignore)
    batch = ready(waiting)
    await asyncio.sleep(0)
    topic.publish(1, b"last\n")
    topic.end()
    assert await batch == b"last\n"
    assert await waiting.batch() == b""
    assert await everything(reader) == b"last\n"
    assert not topic.followed
    assert await everything(topic.follow(None, ignore)) == b""


async def test_a_closed_reader_gets_nothing_more() -> None:
    topic = Topic()
    reader = topic.follow(None, ignore)
    topic.publish(1, b"one\n")
    reader.close()
    reader.close()
    topic.publish(1, b"two\n")
    assert await everything(reader) == b"one\n"


async def test_readers_come_and_go_while_lines_are_handed_out() -> None:
    topic = Topic()
    late: list[Reader] = []
    first = topic.follow(None, ignore)

    def on_drop() -> None:
        late.append(topic.follow(None, ignore))
        first.close()

    slow = topic.follow(None, on_drop)
    last = topic.follow(None, ignore)
    topic.publish(1, b"x" * (BACKLOG + 1))
    while await first.batch() and len(late) == 0:
        await last.batch()
        topic.publish(1, b"y\n")
    assert len(late) == 1
    assert await everything(slow) == b""
    topic.publish(1, b"z\n")
    topic.end()
    assert (await everything(last)).endswith(b"z\n")
    assert (await everything(late[0])).endswith(b"z\n")


@pytest.mark.parametrize("size", [100, 16 * 1024])
async def test_a_slow_reader_is_dropped_once_and_memory_stays_flat(size: int) -> None:
    topic, drops = Topic(), []
    quick = topic.follow(None, ignore)
    slow = topic.follow(None, lambda: drops.append(1))
    count, rest, seen = 2 * BACKLOG // size, b"x" * (size - 9) + b"\n", 0
    tracemalloc.start()
    try:
        for number in range(count):
            topic.publish(1, b"%08d" % number + rest)
            if number % 20 == 0:
                seen += len(await quick.batch())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    topic.end()
    assert drops == [1]
    assert await everything(slow) == b""
    assert seen + len(await everything(quick)) == count * size
    assert peak < 2 * BACKLOG


async def test_a_reader_that_reads_again_in_time_is_kept() -> None:
    topic = Topic()
    reader = topic.follow(None, pytest.fail)
    for _ in range(10):
        topic.publish(1, b"x" * BACKLOG)
        topic.publish(1, b"y\n")
        got = await reader.batch()
        while not got.endswith(b"y\n"):
            got += await reader.batch()
        assert len(got) == BACKLOG + 2


async def test_a_batch_is_whole_lines_of_a_bounded_size() -> None:
    topic = Topic()
    reader = topic.follow(None, ignore)
    lines = [b"%06d" % number + b"x" * 993 + b"\n" for number in range(2000)]
    for line in lines:
        topic.publish(1, line)
    topic.end()
    batches = []
    while batch := await reader.batch():
        batches.append(batch)
    assert b"".join(batches) == b"".join(lines)
    assert all(len(batch) <= PIECE and batch.endswith(b"\n") for batch in batches)


async def test_a_line_that_is_longer_than_a_batch_comes_whole() -> None:
    topic = Topic()
    reader = topic.follow(None, ignore)
    for line in (b"a\n", b"x" * (2 * PIECE) + b"\n", b"b\n"):
        topic.publish(1, line)
    topic.end()
    sizes = []
    while batch := await reader.batch():
        sizes.append(len(batch))
    assert sizes == [2, 2 * PIECE + 1, 2]


async def test_what_is_held_is_told_at_the_release_in_order() -> None:
    topic = Topic()
    early = topic.follow(None, ignore)
    topic.hold()
    topic.publish(2, b"second\n")
    joined = topic.follow(2, ignore)
    topic.publish(2, b"third\n")
    waiting = ready(early)
    await asyncio.sleep(0)
    assert not waiting.done()
    topic.release((1, b"first\n"))
    topic.publish(2, b"fourth\n")
    assert await waiting == b"first\nsecond\nthird\nfourth\n"
    assert await joined.batch() == b"second\nthird\nfourth\n"
