"""Processes to convert parts in, where the system has them to give."""

import os
import signal
import sys
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

__all__ = ["InlineExecutor", "start_pool"]

PROCESSES = 2


class InlineExecutor(Executor):
    """Runs each call when it is submitted, in this process."""

    def submit(self, fn, /, *args, **kwargs) -> Future:
        future = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def start_pool() -> Executor:
    """Return an executor of two processes, started at the first call, or one of this process.

    Processes are forked, because new ones would import Amaranth again and need a guarded main
    module. They leave Ctrl-C to this process.
    """
    # macOS can fork, but its libraries do not survive it.
    if sys.platform != "linux" or len(os.sched_getaffinity(0)) == 1:
        return InlineExecutor()
    return ProcessPoolExecutor(
        PROCESSES, get_context("fork"),
        initializer=partial(signal.signal, signal.SIGINT, signal.SIG_IGN))
