"""One worker: one job at a time, with progress, an end from outside, and no end from inside."""

import logging
import threading
import tracemalloc

import pytest
import torch

from wqkv.errors import ArgumentError, MissedError
from wqkv.explorer import jobs as module
from wqkv.explorer.jobs import Jobs, Refused


@pytest.fixture
def jobs():
    made = Jobs()
    yield made
    made.close()


def done(job):
    assert job.ended.wait(10)
    return job.facts()


def blocked(jobs):
    """A job that runs until it is let go; and how to let it go."""
    running, go = threading.Event(), threading.Event()

    def run(step):
        running.set()
        assert go.wait(10)
        step(1, 1)
        return "let go"

    job = jobs.start("blocked", run)
    assert running.wait(10)
    return job, go


def test_a_job_runs_and_tells(jobs):
    job = jobs.start("add", lambda step: step(2, 3) or 5)
    assert done(job) == {"state": "done", "what": "add", "done": 2, "total": 3, "result": 5}
    assert jobs.find(job.id) is job
    assert jobs.find("nothing") is None


def test_jobs_run_one_after_the_other(jobs):
    first, go = blocked(jobs)
    second = jobs.start("second", lambda step: first.facts()["state"])
    assert first.facts()["state"] == "running"
    assert second.facts() == {"state": "waiting", "what": "second", "done": 0, "total": 0}
    go.set()
    assert done(second)["result"] == "done"


def test_the_same_is_done_once(jobs):
    _, go = blocked(jobs)
    second = jobs.start("a", lambda step: "a", key=("v", 3))
    assert jobs.start("a", lambda step: "b", key=("v", 3)) is second
    assert jobs.start("a", lambda step: "b", key=("v", 5)) is not second
    go.set()
    assert done(second)["result"] == "a"
    assert jobs.start("a", lambda step: "b", key=("v", 3)) is second  # and remembered


def test_what_failed_or_was_ended_is_done_again(jobs):
    def fail(step):
        raise ArgumentError("No.")

    first = jobs.start("a", fail, key=1)
    assert done(first)["state"] == "failed"
    _, go = blocked(jobs)
    third = jobs.start("a", lambda step: 1, key=1)
    assert third is not first
    jobs.cancel(third)
    fourth = jobs.start("a", lambda step: 2, key=1)
    assert fourth is not third
    go.set()
    assert done(third)["state"] == "cancelled"
    assert done(fourth)["result"] == 2


def test_cancel_while_waiting_and_while_running(jobs):
    running, go = blocked(jobs)
    waiting = jobs.start("never", lambda step: pytest.fail("it ran"))
    jobs.cancel(waiting)
    jobs.cancel(running)
    go.set()
    assert done(running)["state"] == "cancelled"
    assert done(waiting)["state"] == "cancelled"
    assert "result" not in running.facts()
    assert done(jobs.start("next", lambda step: 7))["result"] == 7


@pytest.mark.parametrize(
    ("error", "status", "what", "do"),
    [
        (Refused(413, "Too large.", "Send less."), 413, "Too large.", "Send less."),
        (ArgumentError("No x.\n  words: a\nPass one."), 422, "No x. words: a", "Pass one."),
        (ArgumentError("The sentence is empty."), 422, "The sentence is empty.", ""),
        (MissedError("There is no map."), 409, "There is no map.", ""),
        (MemoryError(), 503, "The model ran out of memory.", "Open a shorter text."),
        (torch.OutOfMemoryError("CUDA out of memory"), 503, "The model ran out", "Open a shorter"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 7 bytes"),
            503, "The model ran out of memory.", "Open a shorter text.",
        ),
    ],
)  # fmt: skip
def test_what_went_wrong(jobs, caplog, error, status, what, do):
    def fail(step):
        raise error

    job = jobs.start("fail", fail)
    facts = done(job)
    assert facts["state"] == "failed"
    assert facts["error"].startswith(what) and facts["do"].startswith(do)
    assert job.failure.status == status
    assert not caplog.records
    assert done(jobs.start("next", lambda step: 7))["result"] == 7


def test_what_is_nobodys_mistake_is_logged_and_not_shown(jobs, caplog):
    def fail(step):
        return {}["secret"]

    job = jobs.start("fail", fail)
    with caplog.at_level(logging.ERROR, "wqkv"):
        facts = done(job)
    assert facts["error"] == "The explorer failed (KeyError)."
    assert "secret" not in str(facts)
    assert "KeyError: 'secret'" in caplog.text
    assert len(caplog.records) == 1 and job.facts() == facts and len(caplog.records) == 1


def test_too_many_wait(jobs, monkeypatch):
    monkeypatch.setattr(module, "WAITING", 2)
    running, go = blocked(jobs)
    waiting = [jobs.start("wait", lambda step: 1) for _ in range(2)]
    with pytest.raises(Refused, match=r"2 jobs are waiting already\. Try again") as caught:
        jobs.start("one more", lambda step: 1)
    assert caught.value.status == 503
    go.set()
    assert [done(job)["state"] for job in (running, *waiting)] == ["done"] * 3
    assert done(jobs.start("again", lambda step: 1))["state"] == "done"


def test_old_jobs_are_forgotten(jobs, monkeypatch):
    monkeypatch.setattr(module, "REMEMBERED", 3)
    made = []
    for number in range(5):
        made.append(jobs.start("n", lambda step, number=number: number, key=number))
        done(made[-1])
    assert [jobs.find(job.id) is job for job in made] == [False, False, True, True, True]
    again = jobs.start("n", lambda step: 7, key=0)
    assert done(again)["result"] == 7


def test_close_ends_everything():
    jobs = Jobs()
    running, go = blocked(jobs)
    waiting = jobs.start("wait", lambda step: 1)
    threading.Timer(0.05, go.set).start()
    jobs.close()
    assert [running.state, waiting.state] == ["cancelled", "cancelled"]


def test_close_does_not_wait_for_long(monkeypatch):
    monkeypatch.setattr(module, "CLOSING", 0.01)
    jobs = Jobs()
    running, go = blocked(jobs)
    jobs.close()
    assert running.state == "running"
    go.set()
    assert done(running)["state"] == "cancelled"


def test_what_the_results_take(jobs, monkeypatch):
    """The oldest go until all that are kept take no more than allowed."""
    one = module.size(["x" * 1000])
    assert 1000 < one < 1300
    monkeypatch.setattr(module, "KEPT", 3 * one)
    made = []
    for number in range(5):
        made.append(jobs.start("n", lambda step: ["x" * 1000], key=number))
        done(made[-1])
    done(jobs.start("small", lambda step: None))  # so that the last was counted
    assert [jobs.find(job.id) is job for job in made] == [False, False, False, True, True]
    assert jobs.start("n", lambda step: 7, key=4) is made[4]
    assert jobs.start("n", lambda step: 7, key=0) is not made[0]


def test_a_result_that_is_taken_counts_no_more(jobs, monkeypatch):
    one = module.size("x" * 1000)
    monkeypatch.setattr(module, "KEPT", one + 100)
    first = jobs.start("a", lambda step: "x" * 1000)
    done(first)
    assert first.take() == "x" * 1000 and first.take() is None
    second = jobs.start("b", lambda step: "x" * 1000)
    done(second)
    assert jobs.find(first.id) is first and jobs.find(second.id) is second


def test_a_result_that_is_too_large_alone(jobs, monkeypatch):
    monkeypatch.setattr(module, "KEPT", 999)
    job = jobs.start("a", lambda step: "x" * 1000)
    facts = done(job)
    assert (
        facts["error"]
        == f"The answer takes {module.size('x' * 1000):,} bytes, and at most 999 are kept."
    )
    assert (job.failure.status, job.result, job.bytes) == (413, None, 0)


def test_what_plain_data_takes():
    """Near what Python allocates for it."""
    tracemalloc.start()
    made = {f"row {i}": [i + j / 7 for j in range(101)] for i in range(211)}
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert module.size(made) == pytest.approx(taken, rel=0.1)


def test_again_is_never_refused(jobs, monkeypatch):
    first = jobs.start("a", lambda step: 5)
    done(first)
    monkeypatch.setattr(module, "WAITING", 0)
    with pytest.raises(Refused, match="0 jobs are waiting"):
        jobs.start("a", lambda step: 5)
    second = jobs.again(first)
    assert second is not first and done(second)["result"] == 5
