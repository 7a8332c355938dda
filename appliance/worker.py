# SPDX-License-Identifier: Apache-2.0
"""A call that blocks runs in a thread of its own, which holds up neither the loop nor the end of the program."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from appliance.errors import ApplianceError, DeviceError, DeviceTimeout
from appliance.log import get_logger

_log = get_logger(__name__)

T = TypeVar("T")


def in_thread(call: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Run `call` in a daemon thread; the future holds what it returned or raised.

    Nothing can end the thread but `call` itself: cancelling the future only means that nobody listens any more. There
    is no pool, because calls that hang for ever would use it up. Raises `DeviceError` when the system gives no thread.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def returned(result: T) -> None:
        if not future.done():
            future.set_result(result)

    def raised(error: BaseException) -> None:
        if not future.done():
            future.set_exception(error)

    def work() -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is there to be told
            try:
                result = call()
            except StopIteration as error:  # which no future can hold
                loop.call_soon_threadsafe(raised, RuntimeError(repr(error)))
            except BaseException as error:  # noqa: BLE001 - handed on whole to whoever awaits the future
                loop.call_soon_threadsafe(raised, error)
            else:
                loop.call_soon_threadsafe(returned, result)

    try:
        threading.Thread(target=work, name=name, daemon=True).start()
    except RuntimeError as error:
        raise DeviceError("the system has no thread left") from error
    return future


async def in_time(call: asyncio.Future[T], seconds: float) -> T:
    """What a call returned. Raises `DeviceError` when it has not ended in time, or ended in a defect of a driver."""
    await asyncio.wait([call], timeout=seconds)
    if not call.done():
        raise DeviceTimeout("no answer in time")
    try:
        return call.result()
    except ApplianceError:
        raise
    except Exception as defect:
        # The last resort: what a device makes a driver stumble over costs this device, and no other.
        _log.exception("driver failed")
        raise DeviceError(f"internal error: {type(defect).__name__}") from defect
