"""The ranks that all these tests share: processes are slow to begin."""

from __future__ import annotations

import pytest

from tests.parallel import jobs
from tests.parallel.ranks import run


@pytest.fixture(scope="session")
def ranks(tmp_path_factory):
    """Return a function of (size, job, *args): the list of what the job returns on each rank."""

    def on_ranks(size, job, *args, **rest):
        return run(size, job, tmp_path_factory.mktemp("ranks"), *args, **rest)

    return on_ranks


@pytest.fixture(scope="session", params=[2, 4])
def found(request, ranks):
    """Every rank's results."""
    return ranks(request.param, jobs.everything)
