"""The volume of the local storage "disk", which is renamed where others unmount it."""

import os
import shutil
from pathlib import Path

from queued_storage.transfers.gates import gates
from tests.support.scripted import disk


def near() -> Path:
    return Path(disk().location)


def unmount() -> Path:
    """Leave an empty mount point; return where the files are."""
    volume = near().with_name("volume")
    shutil.rmtree(volume, ignore_errors=True)  # of another test
    os.rename(near(), volume)
    near().mkdir()
    return volume


def mount(volume: Path) -> None:
    """Put the files back; the test fails if something was written to the mount point."""
    left = [each for each in near().iterdir() if each.name != "far"]
    assert left == []
    near().rmdir()
    os.rename(volume, near())
    gates.forget()  # which a worker does once a second
