"""A few threads that ask the network, for all clients together."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

K = TypeVar("K")
A = TypeVar("A")
B = TypeVar("B")


class FullError(Exception):
    """So much waits already that no more is taken."""


class Batches(Generic[K, A, B]):
    """Questions in a line, answered some at a time by a few threads.

    Whoever waits no longer leaves the line; whoever comes while batches are answered shares the next one.

    Args:
        answer: a function of a ``key``, some questions of it, and how many threads are answering; as many answers in
            their order.
        size: what a question weighs: photos.
        most: weight of one batch, but for a single larger question; ``waiting`` bounds that of the line.
    """

    def __init__(
        self,
        answer: Callable[[K, Sequence[A], int], Sequence[B]],
        size: Callable[[A], int],
        most: int,
        waiting: int,
        threads: int = 1,
    ) -> None:
        self._answer, self._size, self._most, self._waiting = answer, size, most, waiting
        self._line: deque[tuple[K, A, Future[B]]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._busy = 0
        self._threads = [threading.Thread(target=self._work, name="network", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Photos in the line."""
        with self._changed:
            return sum(self._size(question) for _, question, future in self._line if not future.cancelled())

    async def ask(self, key: K, question: A) -> B:
        """The answer, in its turn; a cancelled call leaves the line.

        Raises:
            FullError: the line is full, or the service is about to stop.
        """
        if self._closing or ((waits := self.waiting) and waits + self._size(question) > self._waiting):
            raise FullError
        future: Future[B] = Future()
        with self._changed:
            self._line.append((key, question, future))
            self._changed.notify()
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Take no more, and wait until what is in the line is answered."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while some := self._next():
            self._give(some)
            with self._changed:
                self._busy -= 1

    def _give(self, some: Sequence[tuple[K, A, Future[B]]]) -> None:
        try:
            answers = self._answer(some[0][0], [question for _, question, _ in some], self._busy)
        except Exception as error:  # noqa: BLE001  the thread outlives whatever one batch does to it
            if len(some) == 1:
                some[0][2].set_exception(error)
                return
            for one in some:  # one of them may be to blame: each by itself, then
                self._give([one])
        else:
            for (_, _, future), found in zip(some, answers, strict=True):
                future.set_result(found)

    def _next(self) -> list[tuple[K, A, Future[B]]]:
        """The first of the line and what fits beside it; empty when all is done."""
        with self._changed:
            while True:
                some: list[tuple[K, A, Future[B]]] = []
                weight, all_ = 0, sum(self._size(question) for _, question, _ in self._line)
                fair = min(self._most, -(-all_ // len(self._threads)))  # leaves some for the other threads
                while self._line:
                    key, question, future = self._line[0]
                    size = self._size(question)
                    if some and (key != some[0][0] or weight + size > fair):
                        break
                    self._line.popleft()
                    if future.set_running_or_notify_cancel():  # else its client went away
                        some.append((key, question, future))
                        weight += size
                if some:
                    self._busy += 1
                if some or self._closing:
                    return some
                self._changed.wait()
