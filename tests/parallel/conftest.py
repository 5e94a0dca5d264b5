"""The ranks that all these tests share: processes are slow to begin."""

from __future__ import annotations

import pytest

from tests.parallel import jobs, ranks


@pytest.fixture(scope="session", params=[2, 4])
def found(request, tmp_path_factory):
    """Every rank's results."""
    return ranks.run(request.param, jobs.everything, tmp_path_factory.mktemp("ranks"))
