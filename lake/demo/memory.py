"""The memory of the whole stack while it works."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from lake.stack import supervisor
from lake.stack.status import memory

INTERVAL_SECONDS = 1.0


class Peak:
    """The highest memory seen, in bytes: the stack's parts, this process and what it started."""

    bytes = 0

    def sample(self) -> None:
        roots = [p.pid for p in supervisor.processes().values() if p.pid] + [os.getpid()]
        self.bytes = max(self.bytes, sum(memory(pid) for pid in roots))


@contextmanager
def watched() -> Iterator[Peak]:
    """Sample the memory until the block ends."""
    peak, done = Peak(), threading.Event()

    def watch() -> None:
        while not done.wait(INTERVAL_SECONDS):
            try:
                peak.sample()
            except psutil.Error:  # a process ended while it was looked at
                continue

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
