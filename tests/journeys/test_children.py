import os
import signal
import subprocess
import sys

import pytest
from django.db import connection

pytestmark = pytest.mark.one_database


def test_child_process_shares_the_database_and_the_directory(child_environment, spawn):
    code = """
import django
django.setup()
from django.conf import settings
from django.contrib.auth.models import User
User.objects.create(username="child")
print(settings.DIRECTORY)
"""
    child = spawn(
        [sys.executable, "-c", code], env=child_environment, stdout=subprocess.PIPE, text=True
    )
    assert (
        child.communicate(timeout=30)[0].strip()
        == child_environment["QUEUED_STORAGE_TEST_DIRECTORY"]
    )
    assert child.returncode == 0
    with connection.cursor() as cursor:
        cursor.execute("SELECT username FROM auth_user")
        assert list(cursor.fetchall()) == [("child",)]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has parent-death signals")
def test_children_die_with_a_killed_parent(spawn):
    code = """
import sys
from tests.support import services
services.spawn([sys.executable, "-c", "print('ready', flush=True); input()"], stdin=-1).wait()
"""
    parent = spawn([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "ready\n"
    os.kill(parent.pid, signal.SIGKILL)
    assert parent.stdout.read() == ""  # the child had this pipe too: it has exited
