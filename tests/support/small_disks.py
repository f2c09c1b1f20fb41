"""Disks of a few megabytes, mounted for one test, and files that were read long ago."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

MEGABYTE = 1024 * 1024


@contextlib.contextmanager
def small_disk(path: Path, size: int) -> Iterator[Path]:
    """Mount a file system of so many bytes; the test is skipped if that is not allowed."""
    path.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        problem = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        problem = str(error)
    if problem:
        if os.environ.get("QUEUED_STORAGE_TEST_REQUIRE_SERVICES") == "1":
            pytest.fail(f"No small disk can be mounted: {problem}")
        pytest.skip(f"no small disk can be mounted: {problem}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def remount(path: Path, option: str) -> None:
    """Make a mounted disk read-only (``ro``) or writable (``rw``), or change its size."""
    subprocess.run(["mount", "-o", f"remount,{option}", str(path)], check=True)


def age(path: Path | str, seconds: float) -> None:
    """Let a file be one that was last read so long ago."""
    then = time.time_ns() - round(seconds * 1e9)
    os.utime(path, ns=(then, os.stat(path).st_mtime_ns))


def bytes_in(directory: Path) -> int:
    """The size of all files, hidden ones included; links count once."""
    found = {}
    for root, _directories, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(os.path.join(root, name))
                found[status.st_ino] = status.st_size
    return sum(found.values())
