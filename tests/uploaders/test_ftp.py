"""FTP and SFTP: what is missing, and what could not be looked at."""

import ftplib
import types
from typing import Any

import pytest
from django.core.files.storage import InMemoryStorage
from storages.backends.ftp import FTPStorage

from queued_storage.uploaders import uploader_for

pytestmark = pytest.mark.one_lane


class Server:
    """The connection to an FTP server with these directories; an exception is an answer."""

    def __init__(self, **directories: list[str] | Exception) -> None:
        self.directories = {name.replace("_", "/"): found for name, found in directories.items()}
        self.deleted: list[str] = []
        self.refuses_deletes = False

    def pwd(self) -> str:
        return "/"

    def nlst(self, directory: str) -> list[str]:
        found = self.directories.get(directory or "root", NO_DIRECTORY)
        if isinstance(found, Exception):
            raise found
        return found

    def delete(self, name: str) -> None:
        if self.refuses_deletes:
            raise ftplib.error_perm("550 Failed")
        self.deleted.append(name)


NO_DIRECTORY = ftplib.error_perm("550 Das System kann den Pfad nicht finden.")
DENIED = ftplib.error_perm("550 Permission denied.")


def uploader_with(server: Server) -> Any:
    storage = FTPStorage(location="ftp://user:password@far.example:21/")
    storage._connection = server
    return uploader_for(storage)


@pytest.mark.parametrize(
    "server",
    [
        Server(root=["docs"], docs=["docs/b.txt"]),
        Server(root=["docs/"], docs=["b.txt"]),
        Server(root=["other"]),
        Server(root=["docs"], docs=ftplib.error_perm("550 No files found")),
        Server(root=["docs"], docs=ftplib.error_temp("450 docs: No such file or directory")),
        Server(root=[]),
    ],
)
def test_a_file_is_missing(server: Server) -> None:
    uploader = uploader_with(server)
    assert not uploader.exists("docs/a.txt")
    assert not uploader.exists("docs/deeper/a.txt")


@pytest.mark.parametrize("found", ["docs/a.txt", "a.txt"])
def test_a_file_is_listed(found: str) -> None:
    assert uploader_with(Server(root=["docs"], docs=[found])).exists("docs/a.txt")


@pytest.mark.parametrize(
    "server",
    [
        Server(root=["docs"], docs=DENIED),
        Server(root=DENIED),
        Server(root=["docs"], docs=ftplib.error_temp("421 Too many connections")),
        Server(root=["docs"], docs=ftplib.error_temp("425 Cannot open the data connection")),
        Server(root=["docs"], docs=TimeoutError("timed out")),
    ],
)
def test_a_refused_listing_is_no_missing_file(server: Server) -> None:
    with pytest.raises((ftplib.Error, TimeoutError)):
        uploader_with(server).exists("docs/a.txt")


@pytest.mark.parametrize("is_there", [False, True])
def test_a_refused_delete_is_an_error(is_there: bool) -> None:
    server = Server(root=["docs"], docs=["a.txt"] if is_there else [])
    uploader = uploader_with(server)
    uploader.remove("docs/a.txt")
    assert server.deleted == ["docs/a.txt"]
    server.refuses_deletes = True
    if not is_there:
        uploader.remove("docs/a.txt")
        return
    with pytest.raises(ftplib.error_perm):
        uploader.remove("docs/a.txt")


@pytest.mark.parametrize("is_there", [False, True])
def test_sftp_hides_that_a_file_was_not_deleted(is_there: bool) -> None:
    attributes = {
        "__module__": "storages.backends.sftpstorage",
        "delete": lambda self, name: None,
        "exists": lambda self, name: is_there,
    }
    made: Any = types.new_class(
        "SFTPStorage", (InMemoryStorage,), exec_body=lambda ns: ns.update(attributes)
    )
    uploader = uploader_for(made())
    if not is_there:
        uploader.remove("a.txt")
        return
    with pytest.raises(PermissionError, match=r"has not deleted 'a\.txt'"):
        uploader.remove("a.txt")
