"""A survey that is killed ends with the numbers of one that was not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.forks import FORKS
from tests.survey import doomed
from tests.survey.corpora import LINES, corpus, model
from wqkv.corpus.survey import survey

pytest.importorskip("pyarrow", reason="the survey needs the extra `survey`")

ROOT = Path(__file__).parents[2]
RESULTS = ("heads.parquet", "examples.parquet", "skipped.parquet")
PART = 2  # documents
PARTS = -(-LINES // PART)
#: Killed when there are so many parts, or by itself: in mid-write of a part, or before its name.
STOPS = (1, ("half", 1), ("whole", 2), 5, ("half", 1), 7, ("half", 3), 11, ("whole", 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def name(folder):
    return model(folder / "model")


@pytest.fixture(scope="module")
def data(folder):
    return corpus(folder / "docs.jsonl")


@pytest.fixture(scope="module")
def undisturbed(folder, name, data):
    """The files of a run that nobody disturbed."""
    survey(name, [data], folder / "undisturbed", documents=PART)
    return files(folder / "undisturbed")


def files(out):
    """The results and the parts, byte for byte."""
    parts = {path.name: path.read_bytes() for path in (out / "parts").iterdir()}
    return {name: (out / name).read_bytes() for name in RESULTS} | parts


def command(name, data, out, workers=1):
    return [
        "survey",
        name,
        "--data",
        data,
        "--out",
        str(out),
        "--part",
        str(PART),
        "--workers",
        str(workers),
    ]


def parts(out):
    return len([*(out / "parts").glob("*.parquet")])


def killed_at(out, count, pid, running):
    """Kill a command and all that it started itself, as soon as there are so many parts."""
    while parts(out) < count:
        assert running(), "the command ended before it was killed"
        time.sleep(0.005)
    children = psutil.Process(pid).children(recursive=True)
    os.killpg(pid, signal.SIGKILL)
    return children


@pytest.mark.slow
def test_killed_ten_times(folder, name, data, undisturbed):
    """While it reads, in mid-write, before a part and before a result has its name."""
    out = folder / "out"
    arguments = command(name, data, out)
    made = [0]
    for where in (*STOPS, ("whole", None)):
        if isinstance(where, int):
            running = FORKS.Process(target=doomed.command, args=(arguments,))
            running.start()
            killed_at(out, max(where, made[-1] + 1), running.pid, running.is_alive)
        else:
            assert not any((out / result).exists() for result in RESULTS)
            how, number = where[0], where[1] or PARTS - made[-1] + 2  # the second of the results
            running = FORKS.Process(target=doomed.command, args=(arguments, how, number))
            running.start()
        running.join()
        assert running.exitcode == -signal.SIGKILL
        made.append(parts(out))
    assert made == sorted(made) and made[-2] < made[-1] == PARTS
    assert [(out / result).exists() for result in RESULTS] == [True, False, False]
    last = survey(name, [data], out, documents=PART)
    assert last.pace.documents == 0
    assert files(out) == undisturbed


@pytest.mark.ray
def test_one_and_four_workers_two_of_which_are_killed(folder, name, data, undisturbed):
    """One in mid-write, by itself, and one from outside."""
    ray = pytest.importorskip("ray", reason="several workers need the extra `survey`")
    doom, out = folder / "doom", folder / "four"
    doom.mkdir()
    (doom / "doom").touch()
    shot = []

    def shoot(done, total):
        """The first that works and is still there."""
        if not shot and done > 3:
            for path in doom.iterdir():
                if path.name.isdigit() and psutil.pid_exists(int(path.name)):
                    os.kill(int(path.name), signal.SIGKILL)
                    shot.append(int(path.name))
                    return

    ray.init(
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=2**27,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={
            "worker_process_setup_hook": "tests.survey.doomed.worker",
            "env_vars": {"WQKV_DOOM": str(doom), "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"},
        },
    )
    try:
        found = survey(name, [data], out, documents=PART, workers=4, progress=shoot)
    finally:
        ray.shutdown()
    assert len(shot) == 1 and not (doom / "doom").exists()
    assert len([path for path in doom.iterdir() if path.name.isdigit()]) > 1
    assert found.pace.documents == LINES
    assert files(out) == undisturbed


@pytest.mark.ray
def test_a_killed_command_leaves_no_workers(folder, name, data, undisturbed):
    pytest.importorskip("ray", reason="several workers need the extra `survey`")
    out = folder / "group"
    arguments = [sys.executable, "-m", "wqkv", *command(name, data, out, workers=2)]
    running = subprocess.Popen(arguments, cwd=ROOT, start_new_session=True)
    started = killed_at(out, 2, running.pid, lambda: running.poll() is None)
    assert running.wait() == -signal.SIGKILL
    assert len(started) > 4  # ray's own and two workers
    _, alive = psutil.wait_procs(started, timeout=30)
    alive = [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    assert alive == [], [process.cmdline() for process in alive]
    survey(name, [data], out, documents=PART)
    assert files(out) == undisturbed
