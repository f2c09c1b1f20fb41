"""How individual backends behave, with and without this package."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from django.core.files.base import ContentFile

from queued_storage.files.streams import MeasuredFile
from queued_storage.ledger.names import PROBE_NAME
from queued_storage.operations import contract, inventory, trial
from queued_storage.operations.adoption import adopt
from queued_storage.operations.contract import Finding, check_remote
from queued_storage.remotes.perthread import PerThread
from queued_storage.uploaders import uploader_for
from queued_storage.uploaders.azure import AzureUploader
from queued_storage.uploaders.ftp import FTPUploader
from queued_storage.uploaders.generic import GenericUploader
from tests.ecosystem.remotes.servers import Make, azure, ftp, sftp
from tests.ecosystem.remotes.test_remotes import queued, read

LARGE = 200_000


def as_it_is(storage: Any) -> dict[str, Finding]:
    """Return the findings about the storage itself, with the generic uploader."""
    findings = check_remote(storage, GenericUploader(storage), large=LARGE)
    return {found.check: found for found in findings}


@pytest.fixture(scope="module")
def ftp_server() -> Iterator[Make]:
    with ftp() as make:
        yield make


@pytest.fixture(scope="module")
def azurite() -> Iterator[Make]:
    with azure() as make:
        yield make


class TestFTP:
    def test_interrupted_upload_breaks_the_connection(self, ftp_server: Make) -> None:
        findings = as_it_is(ftp_server())
        assert not findings["retry"].is_problem
        assert "testing existence" in findings["interrupted upload"].details
        assert findings["delete"].is_problem  # as are all later checks

    def test_size_fails_next_to_a_name_with_spaces(self, ftp_server: Make) -> None:
        storage = ftp_server()
        storage.save("spoiled/a.bin", ContentFile(b"a"))
        assert storage.size("spoiled/a.bin") == 1
        storage.save("spoiled/b c.bin", ContentFile(b"b"))
        with pytest.raises(ValueError, match="invalid literal for int"):
            storage.size("spoiled/a.bin")
        uploader = uploader_for(storage)
        assert isinstance(uploader, FTPUploader)
        sent = MeasuredFile(ContentFile(b"a"), "a")
        sent.read()
        assert uploader.verify("spoiled/a.bin", sent.content, "checksum") == "size"

    def test_foreign_file_in_the_same_directory_is_kept(
        self, ftp_server: Make, tmp_path: Path
    ) -> None:
        for name in ("foreign/a.bin", "foreign/b c.bin"):
            ftp_server().save(name, ContentFile(b"theirs"))
        storage = queued(ftp_server, tmp_path)
        for content in (b"our own", b"our's."):
            name = storage.save("foreign/a.bin", ContentFile(content))
            assert storage.queue.deliver() == {}
            row = storage.queued_file(name)
            assert row is not None
            assert row.remote_name != "foreign/a.bin"
            assert read(ftp_server(), row.remote_name) == content
            storage.delete(name)
            assert storage.queue.deliver() == {}
        assert read(ftp_server(), "foreign/a.bin") == b"theirs"

    def test_failed_read_does_not_misplace_later_files(
        self, ftp_server: Make, tmp_path: Path
    ) -> None:
        """The backend stays in the directory of the failed read and saves relative to it."""
        plain: Any = ftp_server()
        plain.save("one/a.bin", ContentFile(b"a"))
        with pytest.raises(Exception, match="Error reading"), plain.open("one/none.bin") as file:
            file.read()
        plain.save("two/b.bin", ContentFile(b"b"))
        assert not ftp_server().exists("two/b.bin")
        assert ftp_server().exists("one/two/b.bin")

        storage = queued(ftp_server, tmp_path)
        with (
            pytest.raises(Exception, match="Error reading"),
            storage.remote.open("one/none.bin") as file,
        ):
            file.read()
        storage.save("three/c.bin", ContentFile(b"c"))
        assert storage.queue.deliver() == {}
        assert read(ftp_server(), "three/c.bin") == b"c"

    def test_stored_files_exist_despite_allow_overwrite(self) -> None:
        with ftp(allow_overwrite=True) as make:
            findings = {found.check: found for found in check_remote(make(), large=LARGE)}
        assert findings["exists"].outcome == "correct"
        assert findings["delete"].outcome == "can be repeated"


class TestSFTP:
    def test_two_threads_on_the_backend_deadlock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(trial, "THREADS_TIMEOUT", 5)
        monkeypatch.setattr(contract, "ROUNDS", 50)
        with sftp() as make:
            found = as_it_is(make())["concurrent uploads"]
        assert found.is_problem

    def test_connection_is_closed_when_its_thread_ends(self) -> None:
        kept: list[Any] = []

        def look(storage: Any) -> None:
            assert not storage.exists("a.bin")
            kept.append(storage._ssh.get_transport())

        with sftp() as make:
            storage = PerThread(make())
            assert trial.in_threads([lambda: look(storage)]) == []
            assert not storage.exists("a.bin")
            mine: Any = storage._ssh.get_transport()
            assert mine is not kept[0]
            assert not kept[0].is_active()
            assert mine.is_active()


class TestAzure:
    def test_name_taken_just_before_the_upload(self, azurite: Make, tmp_path: Path) -> None:
        storage = queued(azurite, tmp_path)
        azurite().save("a.bin", ContentFile(b"theirs"))
        name = storage.save("a.bin", ContentFile(b"ours"))
        answers = iter([False, False])  # for the uploader, and for the backend's own save()
        real = storage.remote.exists
        with mock.patch.object(
            storage.remote, "exists", lambda name: next(answers, None) or real(name)
        ):
            assert storage.queue.deliver() == {}
        assert read(azurite(), "a.bin") == b"theirs"
        assert read(azurite(), storage.queued_file(name).remote_name) == b"ours"

    def test_names_under_a_location(self, azurite: Make) -> None:
        storage: Any = azurite()
        storage.location = "media"
        uploader = uploader_for(storage)
        assert isinstance(uploader, AzureUploader)
        for name in ("a.bin", "deep/er/b.bin", "deeper.bin"):
            storage.save(name, ContentFile(b"x"))
        assert sorted(uploader.names()) == ["a.bin", "deep/er/b.bin", "deeper.bin"]
        assert list(uploader.names("deep")) == ["deep/er/b.bin"]
        assert storage.exists("deep/er/b.bin")

    @pytest.mark.parametrize(("location", "dot"), [("", ""), ("own", ".")])
    def test_own_objects_are_hidden(
        self, azurite: Make, tmp_path: Path, location: str, dot: str
    ) -> None:
        """At the root, ``AzureStorage`` drops the dot at the beginning of their names."""
        remote: Any = azurite()
        remote.location = location
        storage = queued(lambda: remote, tmp_path)
        uploader = storage.uploader
        assert uploader.write_marker(b"a writer")
        assert uploader.read_marker() == b"a writer"
        remote.save(PROBE_NAME, ContentFile(b"left by a process that died"))
        uploader.write_probe()
        own = {f"{dot}queued-storage-probe", f"{dot}queued-storage-writer"}
        assert own <= set(uploader.names())
        assert not own & set(inventory.names_of(storage, "remote"))
        assert adopt(storage, own, lambda step: None) == 0
        for name in own:
            remote.delete(name)

    def test_last_upload_wins_with_overwrite_files(self, azurite: Make) -> None:
        storage: Any = azurite()
        storage.overwrite_files = True
        findings = {found.check: found for found in check_remote(storage, large=LARGE)}
        assert findings["create"].outcome == "overwrites"
