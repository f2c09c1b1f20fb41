"""The command as a shell sees it: pipes, colors, exit codes, and what was meant."""

import io
import os
import re
import subprocess
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.core.management.base import OutputWrapper
from django.core.management.color import color_style
from pytest_django import Settings

from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.management.terminal import CLEAR, CLOSED_PIPE, Terminal
from tests.support.command import run, save
from tests.support.console import COMMAND, in_bash, manage, on_terminal
from tests.support.outages import close

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_database]

COLOR = "\x1b["


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


# Pipes


def test_a_closed_pipe_ends_quietly(storage: Any, child_environment: dict[str, str]) -> None:
    save(storage, *map("{}.txt".format, range(30)))
    ledger().update(state=State.FAILED, due_at=None, last_error="It broke.")
    calls = {"status": "", "status --check": "1", "remotes --json": "1"}
    for verb, unbuffered in calls.items():
        found = in_bash(
            child_environment | {"PYTHONUNBUFFERED": unbuffered},
            f"$COMMAND {verb} --skip-checks | true; echo ${{PIPESTATUS[0]}}",
        )
        assert (found.stdout, found.stderr) == (f"{CLOSED_PIPE}\n", ""), verb


def test_the_first_line_of_many(storage: Any, child_environment: dict[str, str]) -> None:
    names = [f"{number:04}{'x' * 600}" for number in range(300)]  # more than a pipe holds
    for name in names:
        ledger().create(alias="default", name=name, saved_at="2026-01-01T00:00Z")
    script = "$COMMAND verify --json --skip-checks 2>/dev/null | head -n 1; echo ${PIPESTATUS[0]}"
    first, code = in_bash(child_environment, script).stdout.splitlines()
    assert names[0] in first
    assert int(code) == CLOSED_PIPE


def test_a_pipe_that_was_closed_before(child_environment: dict[str, str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            [*COMMAND, "worker", "--until-empty", "--skip-checks"],
            env=child_environment,
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (CLOSED_PIPE, b"")


# Colors


@pytest.mark.parametrize(
    ("variables", "arguments"),
    [({"NO_COLOR": "1"}, []), ({}, ["--no-color"])],
)
def test_no_colors_if_not_wanted(
    storage: Any, child_environment: dict[str, str], variables: dict[str, str], arguments: list[str]
) -> None:
    close(storage)
    shown = on_terminal(child_environment | variables, "status", *arguments)
    assert "Closed remotes" in shown
    assert COLOR not in shown


def test_colors_on_a_terminal(storage: Any, child_environment: dict[str, str]) -> None:
    close(storage)
    assert COLOR in on_terminal(child_environment, "status")
    shown = on_terminal(child_environment | {"NO_COLOR": "1"}, "status", "--force-color")
    assert COLOR in shown


def test_the_progress_bar_is_not_red() -> None:
    screen = Screen()
    stream = OutputWrapper(screen)
    stream.style_func = color_style(force_color=True).ERROR
    terminal = Terminal(stream)
    terminal.draw("[####....] 1 of 2 files")
    assert screen.getvalue() == f"{CLEAR}[####....] 1 of 2 files"
    terminal.write("a.txt: It broke.")
    assert screen.getvalue().endswith("\x1b[31;1ma.txt: It broke.\n\x1b[0m")


def test_no_bar_on_a_dumb_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(OutputWrapper(Screen()))
    assert terminal.isatty()
    monkeypatch.setenv("TERM", "dumb")
    assert not terminal.isatty()


# Exit codes


WRONG = [
    *("", "stauts", "status --nonsense", "status --max-age soon", "status --max-failures -1"),
    *(
        "status --max-held many",
        "worker --threads 0",
        "worker --processes 0",
        "worker --poll nan",
        "worker --threads x",
    ),
    *("worker --exit-wait -1", "worker --metrics here", "retry", "retry --storage nowhere"),
    *("retry --older-than yesterday", "retry no.txt", "transfer no.txt", "transfer"),
    *("remotes puase default", "remotes pause nowhere", "remotes probe", "give-up nowhere"),
    *("evict --size much", "evict --all --until-free most", "prune --all", "prune --at-most x"),
    *("orphans nowhere", "orphans local --older-than -1d", "adopt no.txt", "backfill no.txt"),
    *("move", "move --threads 0", "move --limit-rate 0", "flush --timeout soon"),
    *("prioritize urgent --all", "reconcile", "reconcile --repair all", "check-remote nowhere"),
    *("accept-root nowhere", "release", "verify no.txt", "restore", "cancel"),
    "prune --all --at-most 99999999999999999999",
]


def test_wrong_arguments_have_their_exit_code(
    storage: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    save(storage, "a.txt")
    before = list(ledger().values())
    for arguments in WRONG:
        assert exit_code(monkeypatch, *arguments.split()) == 2, arguments
        out, error = capsys.readouterr()
        assert (out, bool(error)) == ("", True), arguments
    assert list(ledger().values()) == before


def exit_code(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """Call the command as ``manage.py`` does."""
    from django.core.management import load_command_class

    monkeypatch.setattr("django.core.management.base.connections.close_all", lambda: None)
    command = load_command_class("queued_storage", "queued_storage")
    with pytest.raises(SystemExit) as ended:
        command.run_from_argv(["manage.py", "queued_storage", *arguments])
    return ended.value.code


def test_exit_code_of_a_process(child_environment: dict[str, str]) -> None:
    assert manage(child_environment, "status").returncode == 0
    wrong = manage(child_environment, "retry", "--storage", "nowhere")
    assert wrong.returncode == 2
    assert "No storage has the alias 'nowhere'." in wrong.stderr


# What was meant


MEANT = [
    (["stauts"], "status"),
    (["remote"], "remotes"),
    (["check_remote"], "check-remote"),
    (["remotes", "puase", "default"], "pause"),
    (["orphans", "remotes"], "remote"),
    (["prioritize", "hihg", "--all"], "high"),
    (["reconcile", "--repair", "missing_remote"], "missing-remote"),
    (["status", "--storage"], None),
    (["retry", "--storage", "defualt"], "default"),
    (["remotes", "pause", "defualt"], "default"),
    (["orphans", "local", "--storage", "defualt"], "default"),
    (["check-remote", "defalt"], "default"),
    (["accept-root", "defalt"], "default"),
]


def test_what_was_meant(storage: Any) -> None:
    save(storage, "a.txt")
    for arguments, meant in MEANT:
        with pytest.raises(CommandError) as caught:
            run(*arguments)
        found = re.findall(r"Did you mean '(.+)'\?$", str(caught.value))
        assert found == ([] if meant is None else [meant]), arguments


def test_choices_are_listed_if_none_is_alike() -> None:
    with pytest.raises(CommandError, match=r"choose from .*status.*check-remote"):
        run("qqqqqqqq")


def test_host_that_was_meant(storage: Any, settings: Settings) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"LOCAL_PER_HOST": True, "HOST": "web-1"}
    save(storage, "a.txt")
    with pytest.raises(CommandError, match=r"Did you mean 'web-1'\?"):
        run("give-up", "web-l")


@pytest.mark.parametrize(
    "option", ["--no-color", "--force-color", "--traceback", "--skip-checks", "-v2"]
)
def test_options_of_django_may_follow_the_verb(storage: Any, option: str) -> None:
    out = io.StringIO()
    for arguments in (["status", option], [option, "status"]):
        call_command("queued_storage", *arguments, stdout=out)
    assert out.getvalue().count("The ledger is empty.") == 2
