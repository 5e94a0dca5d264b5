"""One worker thread that runs the model for every request: one job at a time, in order of arrival.

A page asks how far its job is, and may cancel it.
"""

from __future__ import annotations

import itertools
import logging
import queue
import secrets
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar, cast

import torch

from wqkv.errors import MissedError, WqkvError
from wqkv.explorer.schema import JobFacts, JobState
from wqkv.sentences import LANGUAGES, Said, translated
from wqkv.sentences.errors import mistake
from wqkv.study.callbacks import Progress

#: How many jobs are remembered with their results.
REMEMBERED = 64
#: How many bytes the remembered results may take in all.
KEPT = 2**28
#: How many jobs may wait for the worker.
WAITING = 32
#: How many seconds `Jobs.close` waits for the running job.
CLOSING = 2.0

log = logging.getLogger("wqkv")

Result = TypeVar("Result")


class Cancelled(Exception):
    """Raised inside a job that was cancelled."""


class Refused(Exception):
    """An answer that is an error: its HTTP status, what is wrong, and what to do about it."""

    def __init__(self, status: int, error: str, do: str) -> None:
        super().__init__(f"{error} {do}")
        self.status, self.error, self.do = status, error, do

    @classmethod
    def because(cls, status: int, said: str) -> Refused:
        """Return the answer for a sentence whose last line says what to do, in both languages."""
        both = [translated(said, lang).rpartition("\n") for lang in LANGUAGES]
        wrong = [" ".join(what.split()) or do for what, _, do in both]
        return cls(status, Said(*wrong), Said(*(do if what else "" for what, _, do in both)))

    def told(self, lang: str) -> tuple[str, str]:
        """Return what is wrong and what to do, in one of LANGUAGES."""
        return translated(self.error, lang), translated(self.do, lang)


class Job(Generic[Result]):
    """A call of `run` that takes its time; `result` is there when `state` is "done"."""

    def __init__(self, what: str, run: Callable[[Progress], Result]) -> None:
        self.what, self.run, self.id = what, run, secrets.token_urlsafe(9)
        self.state: JobState = "waiting"
        self.done = self.total = 0
        self.result: Result | None = None
        self.bytes = 0  # how many bytes the result takes
        # Not the exception itself: its traceback would keep all local variables of `run` alive.
        self.failure: Refused | None = None
        self.cancelled, self.ended = threading.Event(), threading.Event()

    def report(self, done: int, total: int) -> None:
        """Note how far `run` is; raise `Cancelled`, which ends `run`, if the job was cancelled."""
        if self.cancelled.is_set():
            raise Cancelled
        self.done, self.total = done, total

    def work(self) -> None:
        """Call `run`, and keep its result or its error: no error may end the worker."""
        try:
            self.report(0, 0)
            self.state = "running"
            result = self.run(self.report)
            self.bytes = size(result)
            if self.bytes > KEPT:
                wrong = mistake("answer_bytes", size=self.bytes, most=KEPT)
                self.bytes = 0
                raise Refused.because(413, wrong)
            self.result = result
            self.state = "done"
        except Cancelled:
            self.state = "cancelled"
        except Exception as error:
            self.failure = refusal_of(error)
            self.state = "failed"
        finally:
            self.ended.set()

    def take(self) -> Result | None:
        """Return the result, and keep it no longer."""
        result, self.result, self.bytes = self.result, None, 0
        return result

    def facts(self, lang: str = LANGUAGES[0]) -> JobFacts:
        """Return what the page is told of this job, in one of LANGUAGES."""
        facts: JobFacts = {
            "state": self.state,
            "what": self.what,
            "done": self.done,
            "total": self.total,
        }
        if self.failure is not None:
            facts["error"], facts["do"] = self.failure.told(lang)
        if self.state == "done":
            facts["result"] = cast(Any, self.result)  # an answer or a view's name
        return facts


class Jobs:
    """The jobs of one server, and the thread that works on them."""

    def __init__(self) -> None:
        # Jobs of all kinds of results stand in one queue, so their type is open here.
        self._queue: queue.SimpleQueue[Job[Any] | None] = queue.SimpleQueue()
        self._jobs: OrderedDict[str, Job[Any]] = OrderedDict()
        self._by_key: dict[object, Job[Any]] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="wqkv-model", daemon=True)
        self._thread.start()

    def start(
        self, what: str, run: Callable[[Progress], Result], key: object = None
    ) -> Job[Result]:
        """Put a job into the queue, or return the job that had the same `key`.

        A job that failed or was cancelled is not returned again.

        Args:
            what: what the page calls the work.
            key: equal for calls whose results are equal; None is equal to no other call.

        Raises:
            Refused: WAITING jobs wait already.
        """
        with self._lock:
            same = self._by_key.get(key)
            if same is not None and same.failure is None and not same.cancelled.is_set():
                return same
            if sum(job.state == "waiting" for job in self._jobs.values()) >= WAITING:
                raise Refused.because(503, mistake("jobs_wait", count=WAITING))
            job = self._put(Job(what, run))
            if key is not None:
                self._by_key[key] = job
            return job

    def again(self, job: Job[Result]) -> Job[Result]:
        """Put the same work into the queue once more, however many jobs wait."""
        with self._lock:
            return self._put(Job(job.what, job.run))

    def _put(self, job: Job[Result]) -> Job[Result]:
        self._jobs[job.id] = job
        self._forget()
        self._queue.put(job)
        return job

    def _forget(self) -> None:
        """Drop the oldest ended jobs while there are too many, or their results are too large."""
        ended = [job for job in self._jobs.values() if job.ended.is_set()]
        while ended and (len(self._jobs) > REMEMBERED or sum(job.bytes for job in ended) > KEPT):
            del self._jobs[ended.pop(0).id]
        self._by_key = {key: job for key, job in self._by_key.items() if job.id in self._jobs}

    def find(self, id: str) -> Job[Any] | None:
        """Return a job by its id, or None if it is not remembered."""
        with self._lock:
            return self._jobs.get(id)

    def cancel(self, job: Job[Any]) -> None:
        """Cancel a job: it ends the next time that it tells its progress, or before it begins."""
        job.cancelled.set()

    def close(self) -> None:
        """Cancel all jobs, and wait for the running one at most CLOSING seconds.

        One layer of a long text can take minutes, and Ctrl-C must end the server now.
        """
        with self._lock:
            for job in self._jobs.values():
                job.cancelled.set()
        self._queue.put(None)
        self._thread.join(CLOSING)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            job.work()
            with self._lock:
                self._forget()


def size(value: object) -> int:
    """Return how many bytes of memory a value of dicts, lists, tuples, texts and numbers takes."""
    match value:
        case dict():
            parts: Iterable[object] = itertools.chain(value, value.values())
        case list() | tuple():
            parts = value
        case _:
            parts = ()
    return sys.getsizeof(value) + sum(map(size, parts))


def refusal_of(error: Exception) -> Refused:
    """Turn an exception into the answer that the page gets.

    An error that is not the user's mistake is written to the log; the page gets its type alone.
    """
    if isinstance(error, Refused):
        return error
    if isinstance(error, WqkvError):
        return Refused.because(409 if isinstance(error, MissedError) else 422, error.args[0])
    # torch raises a plain RuntimeError when the CPU has no memory left.
    text = str(error)
    memory = "can't allocate memory" in text or "not enough memory" in text
    if memory or isinstance(error, MemoryError | torch.OutOfMemoryError):
        return Refused.because(503, mistake("no_memory"))
    log.error("the explorer failed", exc_info=error)
    return Refused.because(500, mistake("explorer_failed", kind=type(error).__name__))
