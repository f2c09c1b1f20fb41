"""What operators see of held and rejected files, and what they can do."""

import io
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from django.core.checks import run_checks
from django.core.files.storage import InMemoryStorage, storages
from django.core.management import CommandError
from django.db import transaction
from django.test import Client, override_settings
from PIL import Image
from pytest_django import Settings

from queued_storage import health
from queued_storage.admin import actions
from queued_storage.ledger.preparations import PreparationState, counts, preparations
from queued_storage.ledger.states import State
from queued_storage.steps import LATER, PASS, REJECT
from queued_storage.testing import drain
from tests.admin.pages import staff
from tests.support.command import run
from tests.support.scripted import file, on_disk, read, row
from tests.support.stepping import EICAR, Scanning, Scripted, at_once, gated, hurry, preparation
from tests.support.stepping import run as run_steps

pytestmark = pytest.mark.django_db(transaction=True)

PAGE = "/admin/queued_storage/preparation/"
DUMMY = {"QUEUE": "queued_storage.queues.dummy.DummyQueue"}


def rejected(make: Callable[..., Any] = gated, data: bytes = EICAR, name: str = "a.txt") -> Any:
    storage = make(Scripted(REJECT("It is bad.")))
    storage.save(name, file(data))
    drain(storage)
    return storage


def held(make: Callable[..., Any] = gated) -> Any:
    storage = make(Scripted(OSError("no scanner")))
    storage.save("a.txt", file(b"bytes"))
    with override_settings(QUEUED_STORAGE={**DUMMY, "RETRIES": 0}):
        drain(storage)
    return storage


MAKERS = [gated, at_once]


# The command


def test_the_list_of_what_is_stopped() -> None:
    assert run("unpublished") == "No file is held or rejected.\n"
    storage, other = rejected(), held()
    waiting = gated(Scripted(LATER(60)))
    waiting.save("waiting.txt", file())
    drain(waiting)
    lines = run("unpublished").splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"{storage.alias}: a.txt: rejected since ")
    assert lines[0].endswith(": It is bad.")
    assert lines[1].startswith(f"{other.alias}: a.txt: held since ")
    assert lines[1].endswith(": OSError: no scanner")
    assert len(run("unpublished", "--storage", other.alias).splitlines()) == 1
    found = [json.loads(line) for line in run("unpublished", "--json", "--waiting").splitlines()]
    assert [each["state"] for each in found] == ["rejected", "held", "waiting"]
    assert (found[0]["name"], found[0]["reason"]) == ("a.txt", "It is bad.")


def test_the_list_of_none_that_waits() -> None:
    assert run("unpublished", "--waiting") == "No file waits for its steps, is held or rejected.\n"


@pytest.mark.parametrize("stop", [rejected, held])
@pytest.mark.parametrize("make", MAKERS)
def test_release(make: Any, stop: Any) -> None:
    storage = stop(make)
    assert run("release", "a.txt", "--dry-run") == "1 file would be published.\n"
    with pytest.raises(CommandError, match="--yes"):
        run("release", "a.txt")
    assert run("release", "a.txt", "--yes") == "1 file will be published.\n"
    assert storage.queue.deliver() == {}
    assert storage.is_published("a.txt")
    assert row(storage, "a.txt").state == State.TRANSFERRED
    assert on_disk() == on_disk("far") == ["a.txt"]
    assert not preparations().exists()
    with pytest.raises(CommandError, match="None of the selected"):
        run("release", "a.txt", "--yes")


def test_release_is_limited() -> None:
    storage = gated(Scripted(*[REJECT("bad")] * 3))
    for number in range(3):
        storage.save(f"{number}.txt", file())
    drain(storage)
    with pytest.raises(CommandError, match="Stopped after 2 files"):
        run("release", "--all", "--at-most", "2", "--yes")
    drain(storage)
    assert preparations().count() == 1


def test_release_of_new_content() -> None:
    storage = gated(Scripted(PASS, REJECT("bad")))
    storage.save("a.txt", file(b"old"))
    drain(storage)
    with storage.open("a.txt", "wb") as opened:
        opened.write(b"new")
    drain(storage)
    assert read(storage, "a.txt") == b"old"
    run("release", "--all", "--yes")
    drain(storage)
    assert read(storage, "a.txt") == b"new"


@pytest.mark.parametrize("make", MAKERS)
def test_retry_runs_the_steps_again(make: Any) -> None:
    storage = held(make)
    assert "The steps of 1 file would be run again." in run("retry", "--all", "--dry-run")
    assert "The steps of 1 file will be run again." in run("retry", "--all")
    drain(storage)
    assert storage.is_published("a.txt")
    assert row(storage, "a.txt").state == State.TRANSFERRED


def test_status_counts_what_is_stopped() -> None:
    rejected()
    storage = held()
    text = run("status")
    assert "steps rejected: 1" in text
    assert "steps held: 1" in text
    found = json.loads(run("status", "--json"))["unpublished"]
    assert {(each["state"], each["files"]) for each in found} == {("rejected", 1), ("held", 1)}
    with pytest.raises(CommandError, match="is held, because a step could not be run"):
        run("status", "--check")
    run("status", "--check", "--max-held", "1")
    assert health.check(health.Limits(max_held=1)).is_well
    [problem] = health.check(health.Limits(max_held=0)).problems
    assert problem == "1 file is held, because a step could not be run; the limit is 0."
    assert Client().get("/queued/health/?max_held=0").status_code in (404, 503)
    assert storage.alias in {each.alias for each in counts()}


def test_status_notices_files_that_wait_for_long() -> None:
    storage = gated(Scripted(LATER(60)))
    storage.save("a.txt", file())
    drain(storage)
    run("status", "--check", "--max-age", "1h")
    preparations().update(saved_at="2000-01-01T00:00:00Z")
    with pytest.raises(CommandError, match="1 file has waited for steps"):
        run("status", "--check", "--max-age", "1h")


def test_status_notices_steps_that_nobody_knows() -> None:
    storage = gated(Scanning())
    storage.save("a.txt", file())
    storage._options = storage._options | {"steps": [], "publish": "at_once"}
    with pytest.raises(CommandError, match="waits for steps, but this process knows no steps"):
        run("status", "--check")


def test_metrics() -> None:
    from prometheus_client import CollectorRegistry, generate_latest

    from queued_storage import metrics

    registry = CollectorRegistry()
    registry.register(metrics.LedgerCollector(settled_every=None))
    counters = metrics.Counters(registry)
    counters.connect()
    try:
        storage = rejected()
        text = generate_latest(registry).decode()
    finally:
        counters.disconnect()
    [line] = [
        line
        for line in text.splitlines()
        if line.startswith("queued_storage_unpublished_files{") and 'state="rejected"' in line
        if f'storage="{storage.alias}"' in line
    ]
    assert line.endswith(" 1.0")
    assert f'queued_storage_rejections_total{{storage="{storage.alias}"}} 1.0' in text
    assert f'queued_storage_oldest_step_age_seconds{{storage="{storage.alias}"}} 0.0' in text


def test_orphans_finds_what_no_save_was_committed_for() -> None:
    storage = rejected()
    with transaction.atomic():
        storage.save("b.txt", file())
        transaction.set_rollback(True)
    before = on_disk()
    assert len(before) == 2
    orphans = ["orphans", "local", "--storage", storage.alias, "--older-than", "0s"]
    run(*orphans, "--delete", "--yes")
    assert len(on_disk()) == 1
    with storage.unpublished("a.txt") as opened:
        assert opened.read() == EICAR


def test_unpublished_content_is_lost_with_its_disk() -> None:
    def on(host: str) -> Any:
        return override_settings(QUEUED_STORAGE={**DUMMY, "LOCAL_PER_HOST": True, "HOST": host})

    with on("lost"):
        new, early = gated(), at_once()
        new.save("new.txt", file())
        early.save("early.txt", file())
    with on("other"):
        assert "2 files would be given up." in run("give-up", "lost", "--dry-run")
        assert run("give-up", "lost").startswith("2 files were given up.")
        for storage, name in ((new, "new.txt"), (early, "early.txt")):
            assert row(storage, name).state == State.FAILED
            assert "'lost', which was given up" in row(storage, name).last_error
        assert not preparations().exists()
        run("prune", "--all", "--yes")


# The admin


def picture() -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (4, 4)).save(target, "PNG")
    return target.getvalue()


ALL = ("view", "release", "discard", "preview")


def permissions(*names: str) -> list[str]:
    return [f"{name}_preparation" for name in names]


def act(client: Client, action: str, *pks: int) -> str:
    data = {"action": action, "_selected_action": pks}
    return client.post(PAGE, data, follow=True).content.decode()


def test_the_queue_of_what_is_stopped() -> None:
    rejected()
    held()
    client = staff(*permissions("view"))
    page = client.get(PAGE).content.decode()
    assert "It is bad." in page
    assert "no scanner" in page
    only = client.get(f"{PAGE}?state__exact=held").content.decode()
    assert "It is bad." not in only
    assert Client().get(PAGE).status_code == 302


@pytest.mark.parametrize("make", MAKERS)
def test_a_preview_needs_its_own_permission(make: Any) -> None:
    storage = rejected(make, picture(), "a.png")
    each = preparation(storage, "a.png")
    assert each is not None
    preview = f"{PAGE}{each.pk}/preview/"
    refused = staff(*permissions("view", "release", "discard"))
    assert refused.get(preview).status_code == 403
    assert preview not in refused.get(f"{PAGE}{each.pk}/change/").content.decode()
    client = staff(*permissions("view", "preview"))
    assert preview in client.get(f"{PAGE}{each.pk}/change/").content.decode()
    response = client.get(preview)
    assert b"".join(response) == picture()  # type: ignore[call-overload]
    assert "no-store" in response["Cache-Control"]
    assert "sandbox" in response["Content-Security-Policy"]
    assert client.get(f"{PAGE}{each.pk + 1}/preview/").status_code == 404
    assert Client().get(preview).status_code == 302


@pytest.mark.parametrize("action", ["release", "discard", "retry"])
def test_an_action_needs_its_own_permission(action: str) -> None:
    storage = rejected()
    each = preparation(storage, "a.txt")
    assert each is not None
    others = [name for name in ALL if name != action]
    act(staff(*permissions(*others)), action, each.pk)
    assert preparations().get().state == PreparationState.REJECTED


ABSURD = ["a\0b", "9" * 40, "-1", "1e999", "%00", "", "x" * 10_000]


@pytest.mark.parametrize(
    "key", ["q", "p", "o", "e", "state__exact", "state", "file__name", "pk__in"]
)
def test_an_absurd_filter_is_no_server_error(key: str) -> None:
    rejected()
    client = staff("view_preparation")
    for value in ABSURD:
        assert client.get(PAGE, {key: value}).status_code < 500
    assert client.get(PAGE, {"saved_at__gte": "9" * 40, "reason__regex": "("}).status_code < 500


@pytest.mark.parametrize("value", ABSURD)
def test_an_absurd_selection_is_refused(value: str) -> None:
    storage = rejected()
    each = preparation(storage, "a.txt")
    assert each is not None
    client = staff(*permissions("view", "release"))
    data = {"action": "release", "_selected_action": [each.pk, value], "index": 0}
    assert client.post(PAGE, data).status_code in (302, 400)
    for page in ("change", "preview"):
        assert client.get(f"{PAGE}{quote(value, safe='')}/{page}/").status_code < 500


def test_an_action_is_for_a_limited_number_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "MAX_ROWS", 1)
    storages = [rejected(), rejected()]
    pks = [each.pk for each in preparations()]
    page = act(staff(*permissions("view", "release")), "release", *pks)
    assert "too many files are selected" in page
    assert [each.state for each in preparations()] == [PreparationState.REJECTED] * len(storages)


@pytest.mark.parametrize("make", MAKERS)
def test_the_action_that_publishes(make: Any) -> None:
    storage = rejected(make)
    each = preparation(storage, "a.txt")
    assert each is not None
    page = act(staff(*permissions("view", "release")), "release", each.pk)
    assert "1 file will be published." in page
    drain(storage)
    assert storage.is_published("a.txt")


@pytest.mark.parametrize("make", MAKERS)
def test_the_action_that_deletes(make: Any) -> None:
    storage = rejected(make)
    each = preparation(storage, "a.txt")
    assert each is not None
    page = act(staff(*permissions("view", "discard")), "discard", each.pk)
    assert "1 file was deleted." in page
    drain(storage)
    assert storage.queued_file("a.txt") is None
    assert on_disk() == []


def test_new_content_is_deleted_but_not_its_file() -> None:
    storage = gated(Scripted(PASS, REJECT("bad")))
    storage.save("a.txt", file(b"old"))
    drain(storage)
    with storage.open("a.txt", "wb") as opened:
        opened.write(b"new")
    drain(storage)
    each = preparation(storage, "a.txt")
    assert each is not None
    act(staff(*permissions("view", "discard")), "discard", each.pk)
    hurry(storage)
    run_steps(storage)
    assert read(storage, "a.txt") == b"old"
    assert on_disk() == ["a.txt"]
    assert storage.rejection("a.txt") is None


def test_the_action_that_runs_steps_again() -> None:
    storage = held()
    each = preparation(storage, "a.txt")
    assert each is not None
    client = staff("view_preparation", "retry_queuedfile")
    assert "The steps of 1 file will be run again." in act(client, "retry", each.pk)
    drain(storage)
    assert storage.is_published("a.txt")


# Checks


def ids(settings: Settings, **options: Any) -> set[str]:
    default = settings.STORAGES["default"]
    local = {"local": "outside"} if options.pop("outside", True) else {}
    outside = settings.STORAGES["disk"] | {
        "OPTIONS": {"location": f"{settings.DIRECTORY}/outside", "base_url": "/media/"}
    }
    chosen = default | {"OPTIONS": default["OPTIONS"] | local | options}
    settings.STORAGES = settings.STORAGES | {"outside": outside, "default": chosen}
    assert storages["default"]
    found = run_checks(tags=["queued_storage"])
    return {str(each.id).removeprefix("queued_storage.") for each in found} - {"W001"}


SCAN = ["tests.support.stepping.Scanning"]


def test_a_valid_gate(settings: Settings) -> None:
    assert ids(settings, steps=SCAN, publish="after_steps") == set()


@pytest.mark.parametrize(
    "steps",
    [
        ["nowhere.Scan"],
        ["queued_storage.tasks.Transfer"],
        [{"OPTIONS": {}}],
        [{"BACKEND": SCAN[0], "OPTIONS": {"unknown": 1}}],
        [{"BACKEND": "queued_storage.steps.clamav.ClamAV", "OPTIONS": {"address": "nowhere"}}],
        [7],
    ],
)
def test_steps_that_cannot_be_made(settings: Settings, steps: list[Any]) -> None:
    assert ids(settings, steps=steps) == {"E017"}


def test_unpublished_files_below_media_root(settings: Settings) -> None:
    assert ids(settings, outside=False, steps=SCAN, publish="after_steps") == {"E018"}
    assert ids(settings, outside=False, steps=SCAN, publish="at_once") == set()


def test_a_local_storage_that_cannot_hide(settings: Settings) -> None:
    local = {"BACKEND": "django.core.files.storage.InMemoryStorage"}
    assert InMemoryStorage()
    settings.STORAGES = settings.STORAGES | {"memory": local}
    found = ids(settings, outside=False, local="memory", steps=SCAN, publish="after_steps")
    assert "E019" in found


def test_urls_are_needed(settings: Settings) -> None:
    settings.ROOT_URLCONF = "tests.support.health_urls"
    assert "E010" in ids(settings, steps=SCAN, publish="after_steps")
