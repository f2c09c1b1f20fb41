"""What reaches a terminal, whatever files, storages, hosts and errors are called."""

import ast
import io
import json
import logging
import os
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.core.management.base import OutputWrapper
from django.utils import timezone
from pytest_django import Settings

import queued_storage
from queued_storage.files import markers
from queued_storage.ledger.database import ledger
from queued_storage.ledger.identity import ledger_id
from queued_storage.ledger.preparations import Preparation, PreparationState
from queued_storage.ledger.remotes import Remote, RemoteState
from queued_storage.ledger.states import State
from queued_storage.management.terminal import CLEAR, Lines, Terminal, printable
from queued_storage.management.verbs import VERBS
from queued_storage.models import QueuedFile
from queued_storage.operations.reconciliation import REPAIRS
from queued_storage.remotes.places import place_of
from tests.support.scripted import ScriptedStorage, disk, make

SUGGESTED = re.compile(r"manage\.py queued_storage [a-z][a-z -]* $")

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_lane]

HOSTILE = "\x1b]0;x\x07\x1b[2J\rFAKE\nFORGED\x9b31m\u202e\u2066\u2028\x7f\x00".replace("\x00", "")
RAW = [char for char in HOSTILE if not char.isprintable() and char != "\n"]
NAME = f"n{HOSTILE}"
ALIAS = f"al{HOSTILE}"[:64]
HOST = f"ho{HOSTILE}"

# The arguments with which each verb says as much as it can. A new verb needs a line here.
ARGUMENTS: dict[str, list[list[str]]] = {
    "status": [["--check"], ["--json", "--check"], ["--exact"]],
    "list": [
        *(["--limit", "0"], ["--json"], ["FORGED"], ["--error", "server"], [HOSTILE]),
        *(["--storage", HOSTILE], ["--error", HOSTILE], ["--state", HOSTILE]),
    ],
    "show": [
        *([state + NAME] for state in State.values),
        *(["failed" + NAME, "--json"], [HOSTILE], ["both" + NAME], ["moved" + NAME]),
    ],
    "remotes": [
        *([], ["--json"], ["pause", f"x{ALIAS}"[:64]], ["resume", f"x{ALIAS}"[:64]]),
        *(["pause", ALIAS], ["resume", HOSTILE], ["resume", ALIAS], ["pause"], [HOSTILE]),
        *(["probe", ALIAS], ["probe", HOSTILE]),
    ],
    "move": [
        *(["--storage", ALIAS], ["--storage", ALIAS, "--dry-run"], ["--storage", HOSTILE], []),
        *(["--storage", ALIAS, "--drop-old"], ["--storage", ALIAS, "--limit-rate", HOSTILE]),
    ],
    "worker": [["--until-empty", "--poll", "0.01"]],
    "sweep": [[], ["--dry-run"], ["--storage", HOSTILE]],
    "transfer": [["failed" + NAME], ["failed" + NAME, "--dry-run"], [HOSTILE], ["both" + NAME]],
    "accept-root": [[ALIAS, "--yes"], [HOSTILE, "--yes"]],
    "give-up": [[HOST], [HOST, "--dry-run"], [HOSTILE], ["me"]],
    "retry": [["--all"], ["--all", "--dry-run"], [HOSTILE], ["--storage", HOSTILE]],
    "prioritize": [["high", "--all"], ["low", NAME, "--dry-run"], [HOSTILE], ["low", HOSTILE]],
    "cancel": [["--all"], ["--storage", ALIAS, "--dry-run"]],
    "unpublished": [[], ["--json"], ["--waiting"], [HOSTILE]],
    "release": [["--all", "--yes"], ["--all"], ["--all", "--dry-run"], [HOSTILE]],
    "evict": [["--all"], ["--storage", ALIAS, "--until-free", "99%"], ["--size", HOSTILE]],
    "restore": [["--all"], [NAME]],
    "accept-local": [["--all"], ["--all", "--dry-run"], ["failed" + NAME], [HOSTILE]],
    "verify": [[], ["--json"], ["--content"], ["--older-than", HOSTILE]],
    "reconcile": [
        *(["--repair", kind, "--yes"] for kind in REPAIRS),
        *(["--repair", kind, "--dry-run"] for kind in REPAIRS),
        ["--repair", HOSTILE],
        ["--repair", "different-local"],
    ],
    "orphans": [
        [side, "--storage", ALIAS, "--older-than", "0s", *more]
        for side in ("local", "remote")
        for more in ([], ["--json"], ["--delete", "--yes"], ["--delete"], ["--under", HOSTILE])
    ],
    "adopt": [["--storage", ALIAS, "--under", "."], ["--storage", ALIAS, HOSTILE], []],
    "backfill": [["--storage", ALIAS, "--under", "."], ["--storage", ALIAS, HOSTILE], []],
    "flush": [[], ["--wait", "--timeout", "0.1s"], ["--storage", ALIAS]],
    "prune": [["--all", "--yes"], ["--all", "--dry-run"], ["--all"], ["--all", "--at-most", "0"]],
    "completion": [["bash"], ["zsh"], ["fish"], [HOSTILE]],
    "check-remote": [[ALIAS], [ALIAS, "--json"], [HOSTILE]],
}
CASES = [(verb.name, arguments) for verb in VERBS for arguments in ARGUMENTS.get(verb.name, [[]])]


class FarStorage(ScriptedStorage):
    """A remote that quotes what it was asked for in a hostile way."""

    def size(self, name: str) -> int:
        if "gone" in name:
            raise ConnectionError(f"{name} {HOSTILE}")
        return super().size(name)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def hostile(settings: Settings) -> Any:
    """A storage of which everything has a hostile name."""
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"LOCAL_PER_HOST": True, "HOST": "me"}
    previous = FarStorage("previous")
    storage = make(alias=ALIAS, remote=FarStorage(), previous=[previous])
    now = timezone.now() - timedelta(hours=3)
    for number, state in enumerate(State.values * 2):
        is_known, is_here = number < len(State.values), number % 2
        QueuedFile.objects.create(
            alias=ALIAS if is_known else f"x{ALIAS}"[:64],
            name=(state if is_known else f"gone{number}") + NAME,
            remote_name=f"gone{HOSTILE}",
            state=state,
            host="me" if is_here else HOST,
            last_error=f"ConnectionError: server said {HOSTILE}",
            size=10,
            saved_at=now,
            due_at=None if state == State.TRANSFERRED else now,
            transferred_at=now,
            is_local=number % 3 > 0,
        )
    Preparation.objects.create(
        file=QueuedFile.objects.get(alias=ALIAS, state=State.REJECTED),
        state=PreparationState.REJECTED,
        generation=1,
        hidden="hidden",
        reason=f"It is bad: {HOSTILE}",
        saved_at=now,
    )
    QueuedFile.objects.create(
        alias=ALIAS,
        name="moved" + NAME,
        remote_name=f"gone{HOSTILE}",
        state=State.TRANSFERRED,
        place=place_of(previous).digest,
        saved_at=now,
    )
    for alias in (ALIAS, "default"):
        QueuedFile.objects.create(alias=alias, name="both" + NAME, saved_at=now)
    Remote.objects.create(
        alias=f"x{ALIAS}"[:64],
        digest=1,
        place=f"s3://{HOSTILE}",
        state=RemoteState.AWAY,
        since=now,
        last_error=f"ConnectionError: server said {HOSTILE}",
    )
    markers.add(disk().location, ledger_id())
    for place in (disk(), storage.remote):
        root = Path(place.location)
        root.mkdir(exist_ok=True)
        (root / f"orphan{HOSTILE}").write_text("x")
        (root / os.fsdecode(b"latin\xe9\x1b[2J")).write_text("x")
    return storage


def run(verb: str, arguments: list[str], stream: type[io.StringIO]) -> list[str]:
    """Run a verb; return what it wrote to both streams, and its error."""
    out, errors, error = stream(), stream(), ""
    try:
        call_command("queued_storage", verb, *arguments, stdout=out, stderr=errors, no_color=True)
    except CommandError as raised:
        error = str(raised)
    return [out.getvalue(), errors.getvalue(), error]


def require_harmless(text: str) -> None:
    text = text.replace(CLEAR, "")
    assert [char for char in RAW if char in text] == []
    assert not any(line.startswith("FORGED") for line in text.split("\n"))
    text.encode()


@pytest.mark.one_database
def test_every_verb_is_tried() -> None:
    assert set(ARGUMENTS) == {verb.name for verb in VERBS}


@pytest.mark.one_database
@pytest.mark.parametrize("stream", [io.StringIO, Screen])
@pytest.mark.parametrize(("verb", "arguments"), CASES)
def test_no_verb_writes_control_characters(
    verb: str,
    arguments: list[str],
    stream: type[io.StringIO],
    hostile: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "queued_storage")
    written = run(verb, arguments, stream)
    assert any(written)
    for text in written:
        require_harmless(text)
    for record in caplog.records:
        require_harmless(logging.Formatter().format(record))
    if "--json" in arguments:
        assert [json.loads(line) for line in written[0].splitlines()]


@pytest.mark.one_database
def test_errors_that_no_verb_expects(hostile: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(f"It broke: {HOSTILE}")

    monkeypatch.setattr("queued_storage.operations.status.tallies", fail)
    [_out, _errors, error] = run("status", [], io.StringIO)
    assert error.startswith("RuntimeError: It broke: ")
    require_harmless(error)


@pytest.mark.one_database
def test_the_ledger_keeps_what_it_has(hostile: Any) -> None:
    assert ledger().filter(name="failed" + NAME).exists()


@pytest.mark.one_database
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_stream_that_cannot_encode_a_name(encoding: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding)
    Terminal(OutputWrapper(stream)).write("ü€\udce9")
    stream.flush()
    assert raw.getvalue().decode(encoding).endswith("\\udce9\n")


@pytest.mark.one_database
def test_json_of_any_character() -> None:
    out = io.StringIO()
    text = "".join(map(chr, range(0x3000)))
    Terminal(OutputWrapper(out)).write_json({"text": text})
    assert out.getvalue().strip().isprintable()
    assert json.loads(out.getvalue())["text"] == text


@pytest.mark.one_database
def test_errors_of_several_lines() -> None:
    error = printable(CommandError(Lines.of(["a\nb", "c"]), returncode=3))
    assert (str(error), error.returncode) == ("a\\nb\nc", 3)
    assert str(printable(CommandError("a\nb"))) == "a\\nb"


@pytest.mark.one_database
def test_nothing_else_writes_to_a_terminal() -> None:
    package = Path(queued_storage.__file__).parent
    for path in package.rglob("*.py"):
        if path.name in {"terminal.py", "ending.py"}:  # the latter only flushes streams
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            is_print = isinstance(node, ast.Name) and node.id == "print"
            is_stream = isinstance(node, ast.Attribute) and ast.unparse(node) in {
                "sys.stdout",
                "sys.stderr",
                "sys.__stdout__",
                "sys.__stderr__",
            }
            assert not is_print, path
            assert not is_stream, path


def in_suggested_commands() -> Iterator[tuple[str, str]]:
    """Yield the file and the source of each value in a command that a message suggests."""
    for path in sorted(Path(queued_storage.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            text = ""
            for part in node.values if isinstance(node, ast.JoinedStr) else ():
                if isinstance(part, ast.Constant):
                    text += str(part.value)
                elif isinstance(part, ast.FormattedValue):
                    if SUGGESTED.search(text):
                        yield path.name, ast.unparse(part.value)
                    text += "value"


def test_suggested_commands_can_be_copied() -> None:
    found = list(in_suggested_commands())
    assert len(found) > 5
    quoted = ("shlex.quote(", "shlex.join(")
    names = (".steered_by", "tested")
    bare = [each for each in found if not (each[1].startswith(quoted) or each[1].endswith(names))]
    assert bare == []
