"""Work on all cores, a shard at a time; TensorFlow's ops and hashlib leave Python's lock to the others."""

import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Callable, Dict, Iterator, Sequence, Tuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Ended(Exception):
    """Told to what still runs when one of the others failed."""


class Count:
    """How many images are done, counted by all threads."""

    def __init__(self, done: int = 0) -> None:
        self.done, self.ended, self._lock = done, False, threading.Lock()

    def one_more(self) -> None:
        """Count an image; ends the thread's work when another thread's failed."""
        if self.ended:
            raise _Ended
        with self._lock:
            self.done += 1


def spread(
    work: Callable[[Item, Count], Result], items: Sequence[Item], threads: int, told: Any, total: int, done: int = 0
) -> Iterator[Tuple[Item, Result]]:
    """Yield each item with what ``work`` returned, as they come, and tell the progress in images.

    The first exception of any item ends the work on all others and is raised; what was yielded is done.
    """
    count = Count(done)
    told.progress(done, total, "images")
    with ThreadPoolExecutor(threads) as pool:
        waiting: Dict["Future[Result]", Item] = {pool.submit(work, item, count): item for item in items}
        try:
            while waiting:
                finished, _ = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
                told.progress(count.done, total, "images")
                for future in finished:
                    yield waiting.pop(future), future.result()
        finally:
            count.ended = True
            for future in waiting:
                future.cancel()
