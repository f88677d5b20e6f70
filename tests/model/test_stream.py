import asyncio
import gc
import threading

import pytest
from patience import PATIENCE, until_true

from seka_rag.model.stream import TextStream


def counting(emit, cancel):
    for i in range(3):
        emit(str(i))
    return "done"


def failing(emit, cancel):
    emit("a")
    raise OSError("disk full")


def endless(emit, cancel):
    i = 0
    while not cancel.wait(0.002):
        emit(str(i))
        i += 1
    return i


def workers():
    return [t for t in threading.enumerate() if t.name == "seka-stream"]


def test_pieces_then_result():
    stream = TextStream(counting)
    assert list(stream) == ["0", "1", "2"]
    assert stream.result == "done"
    assert TextStream(counting).result == "done"


def test_an_error_comes_after_the_pieces_and_from_the_result():
    stream, seen = TextStream(failing), []
    with pytest.raises(OSError, match="disk full"):
        for piece in stream:
            seen.append(piece)
    assert seen == ["a"]
    with pytest.raises(OSError, match="disk full"):
        _ = stream.result


def test_leaving_early_ends_the_work():
    for piece in TextStream(endless):
        if piece == "2":
            break
    gc.collect()
    assert not workers()
    with TextStream(endless) as stream:
        next(iter(stream))
    assert not workers()


async def test_async_pieces_errors_and_cancellation():
    assert [p async for p in TextStream(counting)] == ["0", "1", "2"]
    with pytest.raises(OSError, match="disk full"):
        async for _ in TextStream(failing):
            pass

    async def read():
        async for _ in TextStream(endless):
            await asyncio.sleep(0)

    task = asyncio.create_task(read())
    await until_true(workers)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until_true(lambda: not workers())


async def test_the_loop_stays_free_while_the_work_is_silent():
    release, in_time = threading.Event(), []

    def silent(emit, cancel):
        in_time.append(release.wait(PATIENCE))  # only the event loop can end this

    async def read():
        async for _ in TextStream(silent):
            pass

    task = asyncio.create_task(read())
    for _ in range(5):
        await asyncio.sleep(0.001)
    release.set()
    await task
    assert in_time == [True]
