"""The names of files that other spellings lead to."""

import os
import unicodedata
from pathlib import Path

import pytest
from django.core.files.storage import FileSystemStorage, InMemoryStorage

from queued_storage.files import spelling


@pytest.fixture
def folded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileSystemStorage:
    """A directory with two spellings of each name, of which it lists only the first."""
    nfc, nfd = (unicodedata.normalize(form, "é.txt") for form in ("NFC", "NFD"))
    (tmp_path / "D").mkdir()
    os.symlink("D", tmp_path / "d")
    for created, other in (("A.txt", "a.TXT"), (nfc, nfd)):
        (tmp_path / "D" / created).touch()
        os.link(tmp_path / "D" / created, tmp_path / "D" / other)
    hidden = {"d", "a.TXT", nfd}
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: sorted({*listed(path)} - hidden))
    return FileSystemStorage(tmp_path)


@pytest.mark.parametrize("name", ["D/A.txt", "D/a.TXT", "d/a.TXT", "d/A.txt"])
def test_the_spelling_of_the_directory_counts(folded: FileSystemStorage, name: str) -> None:
    assert spelling.own_name(folded, name) == "D/A.txt"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_unicode_forms(folded: FileSystemStorage, form: str) -> None:
    created = unicodedata.normalize("NFC", "é.txt")
    assert spelling.own_name(folded, f"D/{unicodedata.normalize(form, created)}") == f"D/{created}"


def test_names_that_differ_stay_apart(tmp_path: Path) -> None:
    for name in ("a.txt", "A.TXT"):
        (tmp_path / name).touch()
        assert spelling.own_name(FileSystemStorage(tmp_path), name) == name


@pytest.mark.parametrize("name", ["missing.txt", "d/missing.txt"])
def test_missing_files_keep_their_name(tmp_path: Path, name: str) -> None:
    assert spelling.own_name(FileSystemStorage(tmp_path), name) == name


def test_storages_without_paths_keep_their_names() -> None:
    assert spelling.own_name(InMemoryStorage(), "a.txt") == "a.txt"
