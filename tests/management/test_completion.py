"""The scripts with which shells complete the command, run by these shells."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from queued_storage.management.verbs import VERBS
from tests.support.command import run

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]

# A shell completes what is typed into it. These programs ask for that without a terminal.
ASK = {
    "bash": """
        source "$1"; shift
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _queued_storage
        printf '%s\\n' "${COMPREPLY[@]}"
    """,
    "zsh": """
        compdef() { }
        _describe() { print -rl -- ${${(P)3}%%:*} }
        _default() { print files }
        source "$1"; shift
        words=("$@"); CURRENT=$#; service=$1
        _queued_storage | grep -- "^${words[-1]}"
    """,
    "fish": """
        source $argv[1]
        complete -C (string join -- ' ' $argv[2..-1]) | string replace -r '\\t.*' ''
    """,
}
Complete = Callable[..., set[str]]


@pytest.fixture(params=ASK)
def complete(request: pytest.FixtureRequest, tmp_path: Path) -> Complete:
    """Return what a shell offers for the last word of a line."""
    shell = request.param
    if not shutil.which(shell):
        pytest.skip(f"no {shell} on this machine")
    script = tmp_path / "script"
    script.write_text(run("completion", shell))
    plain = {"bash": ["--norc", "-c"], "zsh": ["-f", "-c"], "fish": ["--no-config", "-c"]}[shell]
    zero = [] if shell == "fish" else [shell]

    def offered(*words: str) -> set[str]:
        ended = subprocess.run(
            [shell, *plain, ASK[shell], *zero, str(script), *words],
            capture_output=True,
            text=True,
            timeout=30,
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        )
        assert ended.stderr == ""
        return set(ended.stdout.split())

    return offered


def test_verbs(complete: Complete) -> None:
    assert complete("manage.py", "queued_storage", "re") == {
        *("remotes", "retry", "release", "restore", "reconcile")
    }
    assert complete("python", "manage.py", "queued_storage", "s") >= {"status", "show", "sweep"}
    every = complete("manage.py", "queued_storage", "-v2", "")
    assert every >= {verb.name for verb in VERBS}


def test_options_of_a_verb(complete: Complete) -> None:
    assert complete("manage.py", "queued_storage", "list", "--") >= {
        *("--storage", "--state", "--error", "--limit", "--json")
    }
    assert complete("manage.py", "queued_storage", "status", "--max-a") == {
        *("--max-age", "--max-away")
    }


def test_values(complete: Complete) -> None:
    line = ("manage.py", "queued_storage")
    assert complete(*line, "list", "--state", "f") == {"failed"}
    assert complete(*line, "retry", "--storage", "def") == {"default"}
    assert complete(*line, "remotes", "pa") == {"pause"}
    assert complete(*line, "remotes", "pause", "def") == {"default"}
    assert complete(*line, "completion", "z") == {"zsh"}
    assert complete(*line, "move", "--dr") == {"--drop-old", "--dry-run"}


def test_other_commands_are_left_alone(complete: Complete) -> None:
    assert "status" not in complete("manage.py", "migrate", "")


def test_script_needs_no_ledger() -> None:
    assert "complete -o bashdefault" in run("completion", "bash")
