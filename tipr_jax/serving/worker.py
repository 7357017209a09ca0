"""The one thread that works on the gallery; jobs that wait together are done together.

SQLite's connections belong to the thread that opened them, and a call of the text encoder takes as
long for one sentence as for several. So handlers put jobs into a bounded queue and await them.
While the thread is busy the next ones gather; nobody waits for a batch to fill.
"""

import asyncio
import concurrent.futures
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, Self

from tipr_jax.gallery.retriever import Retriever
from tipr_jax.serving.answers import later
from tipr_jax.serving.measures import Measures

QUEUE = 256  # jobs that may wait
BATCH = 64  # jobs that are done together


class Job(Protocol):
    """Work on the gallery. The result of a job that failed is its exception."""

    @classmethod
    def together(cls, retriever: Retriever, jobs: Sequence[Self]) -> list[Any]: ...


class Call(NamedTuple):
    """A job that is done alone: any function of the gallery."""

    function: Callable[[Retriever], Any]

    @classmethod
    def together(cls, retriever: Retriever, jobs: Sequence[Self]) -> list[Any]:
        return [_tried(job.function, retriever) for job in jobs]


class _Waiting(NamedTuple):
    job: Job
    done: concurrent.futures.Future


class Worker:
    """Does jobs, from `start` to `stop`.

    Args:
      open_retriever: opens the gallery; called in the thread.
      warm_up: compiles what jobs need; called in the thread, before the first job.
      measures: what it counts.
      size: jobs that may wait.
    """

    def __init__(
        self,
        open_retriever: Callable[[], Retriever],
        warm_up: Callable[[Retriever], None],
        measures: Measures,
        size: int = QUEUE,
    ):
        self._open, self._warm_up, self._measures = open_retriever, warm_up, measures
        self._jobs: queue.Queue[_Waiting | None] = queue.Queue(size)
        self._opened: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._ready, self._stopping = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="gallery", daemon=True)
        self.problem = "the service warms up; try again in a moment"  # "" when jobs are done
        measures.waiting.set_function(self._jobs.qsize)

    def start(self) -> None:
        """Returns when the gallery is open; the warm-up goes on. Raises what opening it raises."""
        self._thread.start()
        self._opened.result()

    def wait_until_ready(self) -> None:
        """Returns after the warm-up, also after one that failed: see `problem`."""
        self._ready.wait()

    def stop(self, seconds: float = 3) -> None:
        """Ends the thread when the jobs that wait are done, or gives up after so many seconds."""
        self.problem = "the service stops"
        self._jobs.put(None)
        self._thread.join(seconds)

    async def do(self, job: Job) -> Any:
        """The result of a job.

        Raises:
          HTTPException: 503 before the warm-up is over, 429 when too many jobs wait.
          Exception: what the job raised.
        """
        if self.problem:
            raise later(503, self.problem)
        waiting = _Waiting(job, concurrent.futures.Future())
        try:
            self._jobs.put_nowait(waiting)
        except queue.Full:
            raise later(429, f"{self._jobs.maxsize} requests wait already; try again") from None
        return await asyncio.wrap_future(waiting.done)

    def _run(self) -> None:
        try:
            retriever = self._open()
        except BaseException as error:
            self._opened.set_exception(error)
            return
        self.model = retriever.model
        self._opened.set_result(None)
        try:
            self._warm_up(retriever)
            self._measures.ready()
            self.problem = ""
        except Exception as error:
            self.problem = f"the warm-up failed: {error}"
            logging.error("error: %s", self.problem)
        self._ready.set()
        while not self._stopping:
            self._do_batch(retriever, self._next_batch())
        retriever.store.close()

    def _next_batch(self) -> list[_Waiting]:
        """The jobs that wait, at most `BATCH`, after waiting for the first."""
        batch: list[_Waiting] = []
        while len(batch) < BATCH:
            try:
                waiting = self._jobs.get(block=not batch)
            except queue.Empty:
                break
            if waiting is None:
                self._stopping = True
                break
            batch.append(waiting)
        return batch

    def _do_batch(self, retriever: Retriever, batch: Sequence[_Waiting]) -> None:
        by_kind: dict[type, list[_Waiting]] = {}
        for waiting in batch:
            if waiting.done.set_running_or_notify_cancel():  # else its client has gone
                by_kind.setdefault(type(waiting.job), []).append(waiting)
        for kind, several in by_kind.items():
            self._measures.batches.labels(kind.__name__).observe(len(several))
            results = _tried(self._do_together, retriever, kind, [w.job for w in several])
            if isinstance(results, Exception):
                results = [results] * len(several)
            for waiting, result in zip(several, results, strict=True):
                if isinstance(result, Exception):
                    waiting.done.set_exception(result)
                else:
                    waiting.done.set_result(result)
        self._measures.items.set(len(retriever.index))

    def _do_together(self, retriever: Retriever, kind: type[Job], jobs: list[Job]) -> list[Any]:
        if retriever.store.setting("model") != retriever.record.id:
            self.problem = "the gallery was reindexed by another model; start the service again"
            raise later(503, self.problem)
        return kind.together(retriever, jobs)


def _tried(function: Callable[..., Any], *given: Any) -> Any:
    """What the function returns or raises."""
    try:
        return function(*given)
    except Exception as error:
        return error
