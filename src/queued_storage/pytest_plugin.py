"""A plugin for pytest that stops the threads of ``ThreadQueue`` after each test."""

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    """Do it before the fixtures of the test are torn down, and with them its data."""
    # pytest loads plugins before Django loads its apps.
    from .testing import stop_threads

    stop_threads()
