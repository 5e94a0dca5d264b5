"""Several stages of one work, counted by one progress callback."""

from wqkv.study.callbacks import Stages


def test_stages():
    told = []
    stages = Stages(lambda *at: told.append(at), [3, 0, 5, 2])
    assert stages.total == 10
    for count in (3, 0, 4, 2):  # the third ends early
        progress = stages.next()
        for done in range(1, count + 1):
            progress(done, 999)
    assert told == [(n, 10) for n in (1, 2, 3, 4, 5, 6, 7, 9, 10)]
