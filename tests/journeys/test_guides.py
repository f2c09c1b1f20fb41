"""The guides about a second provider, followed literally on real S3 servers.

Each command is run as it is printed, in the order of the page.
"""

import contextlib
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.management import CommandError
from pytest_django import Settings

from queued_storage.ledger.copies import CopyState, copies
from queued_storage.ledger.database import ledger
from queued_storage.operations import errands
from queued_storage.transfers import watching
from tests.support.command import run
from tests.support.services import S3Server
from tests.test_docs import page, section

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]

BUCKET = "guide"
INLINE = re.compile(r"`(python manage\.py queued_storage [^`]+)`")
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.M | re.S)
MANAGE = "python manage.py queued_storage "


@pytest.fixture(autouse=True)
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no thread probe beside the test."""
    monkeypatch.setattr(watching, "watch", lambda: None)


@pytest.fixture
def servers(s3_server: S3Server, settings: Settings) -> Iterator[dict[str, S3Server]]:
    """Three S3 servers, which are the storages "s3", "r2" and "b2"."""
    with S3Server() as second, S3Server() as third:
        found = {"s3": s3_server, "r2": second, "b2": third}
        for name, server in found.items():
            with contextlib.closing(server.client()) as client:
                client.create_bucket(Bucket=BUCKET)
            backend = "storages.backends.s3.S3Storage"
            one = {"BACKEND": backend, "OPTIONS": server.options(BUCKET)}
            settings.STORAGES = settings.STORAGES | {name: one}
        yield found
    with contextlib.closing(s3_server.client()) as client:
        client.delete_bucket(Bucket=BUCKET)


def steps(name: str, heading: str) -> list[str]:
    """The numbered steps of a section."""
    text = section(name, heading)
    return re.split(r"^\d+\. ", text, flags=re.M)[1:]


def commands(step: str) -> list[list[str]]:
    """The commands of a step, in order."""
    lines = [line.strip() for _kind, text in BLOCK.findall(step) for line in text.splitlines()]
    lines += [" ".join(found.split()) for found in INLINE.findall(BLOCK.sub("", step))]
    return [shlex.split(line.removeprefix(MANAGE)) for line in lines if line.startswith(MANAGE)]


def follow(step: str) -> str:
    """Run the commands of a step; return their output."""
    found = ""
    for arguments in commands(step):
        needs_yes = "--drop-old" in arguments or arguments[:2] == ["remotes", "forget"]
        found += run(*arguments, *(["--yes"] if needs_yes else []))
    return found


def configure(settings: Settings, step: str) -> Any:
    """Configure the storage as a step says: in a block of code, or with a few options in it."""
    options: dict[str, Any] = {"local": "disk"}
    if code := re.search(r"^ *```python\n(.*?)^ *```$", step, re.M | re.S):
        names: dict[str, Any] = {}
        exec(re.sub(r"^   ", "", code[1], flags=re.M), names)  # it is ours
        options = names["STORAGES"]["default"]["OPTIONS"]
    else:
        [text] = re.findall(r'`("remote": [^`]+)`', step)
        exec(f"found = {{{text}}}", names := {})
        options |= names["found"]
    return configured(settings, **options)


def configured(settings: Settings, **options: Any) -> Any:
    default = {"BACKEND": "queued_storage.backends.QueuedStorage", "OPTIONS": options}
    settings.STORAGES = settings.STORAGES | {"default": default}
    return storages["default"]


def save(storage: Any, *names: str, evict: bool = False) -> None:
    for name in names:
        assert storage.save(name, ContentFile(name.encode())) == name
    work()
    if evict:
        assert errands.evict(ledger().filter(name__in=names)) == len(names)


def work() -> None:
    run("worker", "--until-empty")


def objects(server: S3Server) -> set[str]:
    with contextlib.closing(server.client()) as client:
        listed = client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
    return {item["Key"] for item in listed if not item["Key"].startswith(".queued-storage")}


def require_read(storage: Any, *names: str) -> None:
    for name in names:
        with storage.open(name) as opened:
            assert opened.read() == name.encode()


def test_change_your_provider(servers: dict[str, S3Server], settings: Settings) -> None:
    storage = configured(settings, local="disk", remote="s3")
    save(storage, "a.txt", "b.txt", "gone.txt")
    save(storage, "evicted.txt", evict=True)
    names = ["a.txt", "b.txt", "evicted.txt", "new.txt"]
    _upgrade, test, switch, move, back, drop, remove = steps("moving", "Change your provider")

    assert "clean-up: complete" in follow(test)
    storage = configure(settings, switch)
    assert commands(switch) == []
    save(storage, "new.txt")
    storage.delete("gone.txt")
    work()
    assert objects(servers["r2"]) == {"new.txt"}
    assert "3 files were moved" in follow(move)
    require_read(storage, *names)
    assert objects(servers["r2"]) == {*names}

    storage = configure(settings, back)
    require_read(storage, *names)
    assert objects(servers["s3"]) == {"a.txt", "b.txt", "evicted.txt"}
    storage = configure(settings, switch)

    assert "3 old copies were removed" in follow(drop)
    assert objects(servers["s3"]) == set()
    assert commands(remove) == []
    storage = configured(settings, local="disk", remote="r2")
    require_read(storage, *names)
    run("verify", "--content", "--storage", "default")


def test_a_second_copy_elsewhere(servers: dict[str, S3Server], settings: Settings) -> None:
    storage = configured(settings, local="disk", remote="s3")
    save(storage, "old.txt", evict=True)
    test, add, fill, see = steps("mirrors", "Add a mirror")
    follow(test)
    storage = configure(settings, add)
    save(storage, "new.txt")
    assert objects(servers["b2"]) == {"new.txt"}
    follow(fill)
    work()
    assert objects(servers["b2"]) == {"old.txt", "new.txt"}
    assert "0 pending, 0 failed" in follow(see)

    [pause] = commands(section("mirrors", "How copies are made"))
    assert "is paused" in run(*pause)
    run("remotes", "resume", *pause[2:])

    with contextlib.closing(servers["b2"].client()) as client:
        client.delete_object(Bucket=BUCKET, Key="new.txt")
    with contextlib.closing(servers["s3"].client()) as client:
        client.delete_object(Bucket=BUCKET, Key="old.txt")
    require_read(storage, "old.txt", "new.txt")
    assert follow(section("mirrors", "If a copy is lost"))
    work()
    assert objects(servers["s3"]) == objects(servers["b2"]) == {"old.txt", "new.txt"}

    save(storage, "deleted.txt")
    assert errands.evict(ledger().filter(name="new.txt")) == 1
    servers["s3"].kill()
    try:
        lost(servers, settings)
    finally:
        servers["s3"].start()


def lost(servers: dict[str, S3Server], settings: Settings) -> None:
    """What the page says of a remote that is lost for good, and of a mirror that is removed."""
    replace, forget, fill, remove = steps("mirrors", "If a remote is lost for good")
    storage = configure(settings, replace)
    require_read(storage, "old.txt", "new.txt")
    storage.delete("deleted.txt")
    follow(forget)
    follow(fill)
    work()
    assert objects(servers["b2"]) == objects(servers["r2"]) == {"old.txt", "new.txt"}
    assert commands(remove) == []
    storage = configured(settings, local="disk", remote="b2", mirrors=["r2"])
    require_read(storage, "old.txt", "new.txt")
    assert {copy.state for copy in copies()} == {CopyState.TRANSFERRED}
    run("verify", "--content", "--storage", "default")

    storage = configured(settings, local="disk", remote="b2", previous=["r2"])
    save(storage, "newest.txt")
    storage.delete("old.txt")
    work()
    assert objects(servers["r2"]) == {"new.txt"}


def test_moved_by_hand(servers: dict[str, S3Server], settings: Settings) -> None:
    storage = configured(settings, local="disk", remote="s3")
    save(storage, "a.txt", evict=True)
    with contextlib.closing(servers["r2"].client()) as client:
        client.put_object(Bucket=BUCKET, Key="a.txt", Body=b"a.txt")
    storage = configured(settings, local="disk", remote="r2")
    with pytest.raises(CommandError, match="accept default"):
        run("status", "--check")
    follow(section("moving", "Copy the objects yourself"))
    require_read(storage, "a.txt")
    run("status", "--check")


FOLLOWED = {
    "mirrors": [
        "Add a mirror",
        "How copies are made",
        "If a copy is lost",
        "If a remote is lost for good",
    ],
    "moving": ["Change your provider", "Copy the objects yourself"],
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_every_command_of_a_guide_is_followed(name: str) -> None:
    followed = [each for title in FOLLOWED[name] for each in commands(section(name, title))]
    shown_only = [["status"]] if name == "moving" else []  # "Files of earlier versions"
    assert sorted(commands(page(name))) == sorted(followed + shown_only)
