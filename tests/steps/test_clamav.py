import io
import socket

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from PIL import Image, PngImagePlugin

from queued_storage.exceptions import NotPublished
from queued_storage.ledger.preparations import PreparationState
from queued_storage.ledger.states import State
from queued_storage.steps.clamav import ClamAV
from queued_storage.testing import drain
from tests.support.clamd import FOUND, Clamd
from tests.support.scripted import file, read, row
from tests.support.stepping import EICAR, gated, hurry, preparation, run

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_lane]


def picture_with_eicar() -> bytes:
    comment = PngImagePlugin.PngInfo()
    comment.add_text("Comment", EICAR.decode())
    target = io.BytesIO()
    Image.new("RGB", (4, 4)).save(target, "PNG", pnginfo=comment)
    return target.getvalue()


@pytest.mark.parametrize("by_port", [False, True])
def test_what_the_scanner_finds_is_rejected(clamd: Clamd, by_port: bool) -> None:
    storage = gated(ClamAV(f"127.0.0.1:{clamd.port}" if by_port else clamd.address))
    bad = storage.save("bad.png", file(picture_with_eicar()))
    good = storage.save("good.txt", file(b"good" * 100_000))
    empty = storage.save("empty.txt", file(b""))
    assert drain(storage) == {}
    assert storage.rejection(bad) == f"The scanner found {FOUND}."
    with pytest.raises(NotPublished):
        storage.open(bad)
    assert read(storage, good) == b"good" * 100_000
    assert read(storage, empty) == b""


def test_a_scanner_that_is_down_is_waited_for(clamd: Clamd) -> None:
    storage = gated(ClamAV(clamd.address))
    name = storage.save("a.txt", file(EICAR))
    clamd.stop()
    for _attempt in range(10):
        assert run(storage) == {}
        waiting = preparation(storage, name)
        assert waiting is not None
        assert (waiting.state, waiting.attempts) == (PreparationState.WAITING, 0)
        hurry(storage)
    clamd.start()
    run(storage)
    assert row(storage, name).state == State.REJECTED


def test_or_the_step_fails(clamd: Clamd) -> None:
    storage = gated(ClamAV(clamd.address, if_down="fail"))
    name = storage.save("a.txt", file(b"good"))
    clamd.stop()
    with override_settings(QUEUED_STORAGE={"RETRIES": 0}):
        [error] = run(storage).values()
    assert "cannot be reached" in str(error)
    held = preparation(storage, name)
    assert held is not None
    assert held.state == PreparationState.HELD
    assert not storage.is_published(name)


def test_a_scanner_that_hangs_is_down() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        step = ClamAV(f"127.0.0.1:{server.getsockname()[1]}", timeout=0.2)
        storage = gated(step)
        storage.save("a.txt", file(b"good"))
        assert run(storage) == {}
    assert preparation(storage, "a.txt")


@pytest.mark.parametrize("max_bytes", [1_000_000, 100_000_000], ids=["known", "of clamd"])
@pytest.mark.parametrize("if_unscannable", ["reject", "fail", "pass"])
def test_a_file_that_cannot_be_scanned(clamd: Clamd, if_unscannable: str, max_bytes: int) -> None:
    storage = gated(ClamAV(clamd.address, max_bytes=max_bytes, if_unscannable=if_unscannable))  # type: ignore[arg-type]
    name = storage.save("a.bin", file(b"x" * 8_000_000))
    errors = drain(storage)
    if if_unscannable == "pass":
        assert storage.is_published(name)
    elif if_unscannable == "reject":
        assert str(storage.rejection(name)).startswith("The file cannot be scanned.")
    else:
        assert len(errors) == 1
        assert not storage.is_published(name)


@pytest.mark.parametrize(
    "options",
    [
        {"address": "clamd"},
        {"address": "host:port"},
        {"if_down": "pass"},
        {"if_unscannable": "later"},
    ],
)
def test_invalid_options(options: dict[str, str]) -> None:
    with pytest.raises(ImproperlyConfigured):
        ClamAV(**options)  # type: ignore[arg-type]
