import threading

import pytest

from queued_storage.executor import Executor

pytestmark = pytest.mark.django_db(transaction=True)


def test_who_looks_for_files_is_idle() -> None:
    """Else a worker told to end when it is idle goes on for ever where a look takes longer than
    the pause between two."""
    looking, may_go_on = threading.Event(), threading.Event()

    def slow_look() -> list[str]:
        looking.set()
        assert may_go_on.wait(20)
        return []

    threads = Executor(1, 60, slow_look)
    threads.start()
    assert looking.wait(20)
    assert threads.is_idle()
    may_go_on.set()
    assert threads.stop(20)
