# SPDX-License-Identifier: Apache-2.0
"""A system that has no thread left."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def no_thread_for(refused: Callable[[threading.Thread], bool]) -> Iterator[None]:
    """Within the block, threads of which `refused` holds cannot be started."""
    start = threading.Thread.start

    def start_others(thread: threading.Thread) -> None:
        if refused(thread):
            raise RuntimeError("can't start new thread")
        start(thread)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_others)
        yield
