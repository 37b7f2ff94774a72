"""Threads for work that torch does: one torch thread in each, since more would only fight for the same cores."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads. When the block ends, what has not begun is left undone; what has is waited for."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
