"""One worker that runs the model for everybody: one job at a time, with progress and cancel."""

from __future__ import annotations

import itertools
import logging
import queue
import secrets
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch

from wqkv.errors import MissedError, WqkvError

#: Is told how much is done, of how much; ends a job that nobody wants any more.
Step = Callable[[int, int], None]
#: How many jobs are remembered with their results, of how many bytes in all, and how many may wait.
REMEMBERED, KEPT, WAITING = 64, 2**28, 32
#: How many seconds the last job has to end.
PATIENCE = 2.0

log = logging.getLogger("wqkv")


class Cancelled(Exception):
    """Nobody wants the job any more."""


class Refused(Exception):
    """An answer that is no success: the status of HTTP, what is wrong, and what to do."""

    def __init__(self, status: int, error: str, do: str) -> None:
        super().__init__(f"{error} {do}")
        self.status, self.error, self.do = status, error, do


class Job:
    """Something that takes its time; `result` is there when `state` is "done"."""

    def __init__(self, what: str, run: Callable[[Step], Any]) -> None:
        self.what, self.run, self.id = what, run, secrets.token_urlsafe(9)
        self.state: Literal["waiting", "running", "done", "failed", "cancelled"] = "waiting"
        self.done = self.total = 0
        self.result: Any = None
        self.bytes = 0  # that the result takes
        self.failure: Refused | None = None  # no error itself: that would hold all its frames
        self.unwanted, self.ended = threading.Event(), threading.Event()

    def step(self, done: int, total: int) -> None:
        if self.unwanted.is_set():
            raise Cancelled
        self.done, self.total = done, total

    def work(self) -> None:
        """Run, whatever happens: the next job must have its turn."""
        try:
            self.step(0, 0)
            self.state = "running"
            result = self.run(self.step)
            self.bytes = size(result)
            if self.bytes > KEPT:
                wrong = f"The answer takes {self.bytes:,} bytes, and at most {KEPT:,} are kept."
                self.bytes = 0
                raise Refused(413, wrong, "Open a shorter text.")
            self.result = result
            self.state = "done"
        except Cancelled:
            self.state = "cancelled"
        except Exception as error:
            self.failure = explained(error)
            self.state = "failed"
        finally:
            self.ended.set()

    def take(self) -> Any:
        """The result, which is kept no longer."""
        result, self.result, self.bytes = self.result, None, 0
        return result

    def facts(self) -> dict[str, Any]:
        """What a page is told of it."""
        facts = {"state": self.state, "what": self.what, "done": self.done, "total": self.total}
        if self.failure is not None:
            facts |= {"error": self.failure.error, "do": self.failure.do}
        return facts | ({"result": self.result} if self.state == "done" else {})


class Jobs:
    """The jobs of one server, on a thread of their own."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._same: dict[object, Job] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="wqkv-model", daemon=True)
        self._thread.start()

    def start(self, what: str, run: Callable[[Step], Any], key: object = None) -> Job:
        """A job that will run; with a key the one that does, or did, the same.

        Raises:
            Refused: WAITING jobs wait already.
        """
        with self._lock:
            same = self._same.get(key)
            if same is not None and same.failure is None and not same.unwanted.is_set():
                return same
            if sum(job.state == "waiting" for job in self._jobs.values()) >= WAITING:
                raise Refused(503, f"{WAITING} jobs are waiting already.", "Try again in a moment.")
            job = self._put(Job(what, run))
            if key is not None:
                self._same[key] = job
            return job

    def again(self, job: Job) -> Job:
        """The same once more, however many wait."""
        with self._lock:
            return self._put(Job(job.what, job.run))

    def _put(self, job: Job) -> Job:
        self._jobs[job.id] = job
        self._forget()
        self._queue.put(job)
        return job

    def _forget(self) -> None:
        """Let the oldest results go that are too many, or too large in all."""
        ended = [job for job in self._jobs.values() if job.ended.is_set()]
        while ended and (len(self._jobs) > REMEMBERED or sum(job.bytes for job in ended) > KEPT):
            del self._jobs[ended.pop(0).id]
        self._same = {key: job for key, job in self._same.items() if job.id in self._jobs}

    def find(self, id: str) -> Job | None:
        with self._lock:
            return self._jobs.get(id)

    def cancel(self, job: Job) -> None:
        """It ends at its next step, or before its first."""
        job.unwanted.set()

    def close(self) -> None:
        """End all jobs; a layer that runs on is not waited for long, for Ctrl-C means now."""
        with self._lock:
            for job in self._jobs.values():
                job.unwanted.set()
        self._queue.put(None)
        self._thread.join(PATIENCE)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            job.work()
            with self._lock:
                self._forget()


def size(value: object) -> int:
    """How many bytes of memory plain data takes."""
    match value:
        case dict():
            parts: Iterable[object] = itertools.chain(value, value.values())
        case list() | tuple():
            parts = value
        case _:
            parts = ()
    return sys.getsizeof(value) + sum(map(size, parts))


def explained(error: Exception) -> Refused:
    """What went wrong in two sentences; the details of what is no user's mistake go to the log."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, WqkvError):
        what, _, do = str(error).rpartition("\n")
        status = 409 if isinstance(error, MissedError) else 422
        return Refused(status, " ".join(what.split()) or do, do if what else "")
    text = str(error)
    memory = "can't allocate memory" in text or "not enough memory" in text
    if memory or isinstance(error, MemoryError | torch.OutOfMemoryError):
        return Refused(503, "The model ran out of memory.", "Open a shorter text.")
    log.error("the explorer failed", exc_info=error)
    what = f"The explorer failed ({type(error).__name__})."
    return Refused(500, what, "The details are printed where `wqkv open` runs.")
