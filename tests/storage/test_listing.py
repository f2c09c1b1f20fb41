"""Listing directories of both storages."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.actions import evicted
from tests.support.scripted import disk, file, on_disk

pytestmark = pytest.mark.django_db(transaction=True)


def test_listdir_lists_both_storages(storage: Any) -> None:
    evicted(storage, "docs/evicted.txt")
    storage.save("docs/both.txt", file())
    storage.queue.deliver()
    storage.save("docs/local.txt", file())
    storage.remote.save("docs/foreign.txt", file())
    storage.save("docs/deep/er/x.txt", file())
    deleted = storage.save("docs/deleted.txt", file())
    storage.queue.deliver()
    storage.delete(deleted)
    storage.save("top.txt", file())
    assert storage.listdir("docs") == (
        ["deep"],
        ["both.txt", "evicted.txt", "foreign.txt", "local.txt"],
    )
    assert storage.listdir("docs/") == storage.listdir(Path("docs")) == storage.listdir("docs")
    for root in ("", ".", None):
        assert storage.listdir(root) == (["docs"], ["top.txt"])


def test_listdir_of_a_directory_on_one_storage(storage: Any) -> None:
    storage.save("near/a.txt", file())
    storage.remote.save("away/b.txt", file())
    assert storage.listdir("near") == ([], ["a.txt"])
    assert storage.listdir("away") == ([], ["b.txt"])
    with pytest.raises(FileNotFoundError):
        storage.listdir("nowhere")


def test_listdir_lists_files_on_other_hosts(storage: Any) -> None:
    name = storage.save("docs/a.txt", file())
    disk().delete(name)
    disk().delete("docs")
    assert storage.listdir("docs") == ([], ["a.txt"])


def test_listdir_does_not_treat_names_as_patterns(storage: Any) -> None:
    storage.save("a_b/x.txt", file())
    storage.save("acb/y.txt", file())
    storage.save("A_B/z.txt", file())
    assert storage.listdir("a_b") == ([], ["x.txt"])


def test_listdir_hides_unfinished_files(storage: Any) -> None:
    with storage.open("a.txt", "wb") as opened:
        opened.write(b"x")
        assert len(on_disk()) == 1
        assert storage.listdir("") == ([], [])
    assert storage.listdir("") == ([], ["a.txt"])
