"""Each block of code in the docs is run, or has a comment that says why it is not.

The comment ``<!-- not run: the reason -->`` is on the line before the block. Blocks of Python, and
commands of this package, are executed. Other commands only have to be accepted by their parsers.
"""

import argparse
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django.conf import global_settings
from django.core import checks
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.core.management import CommandError, get_commands, load_command_class
from django.test.utils import isolate_apps
from pytest_django import Settings

from queued_storage.ledger.database import ledger
from tests.support import services
from tests.support.command import run
from tests.support.console import manage
from tests.test_docs import DOCS, PROJECT, ROOT, VERBS, directory

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]

FENCE = re.compile(
    r"(?:^ *<!-- not run: (?P<why>[^\n]+?) -->\n)?"
    r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=indent)(?P=ticks)$",
    re.M | re.S,
)
FILES = [*sorted(DOCS.glob("*.md")), ROOT / "README.md"]
# Pages that a test goes through from the first block to the last
WHOLE = {"quickstart": "tests/journeys/test_quickstart.py"}
NOT_CODE = {
    "text": "output and diagrams",
    "html+django": "templates of the tutorial, which example/adoption.py has",
}


class Block(NamedTuple):
    page: str
    number: int
    language: str
    code: str
    why_not_run: str | None

    @property
    def label(self) -> str:
        return f"{self.page}-{self.number}"


def all_blocks() -> Iterator[Block]:
    for path in (each for each in FILES if each.stem not in WHOLE):
        for number, found in enumerate(FENCE.finditer(path.read_text())):
            language = found["language"].strip()
            if not language.startswith("{"):
                code = textwrap.dedent(found["code"])
                yield Block(path.stem, number, language, code, found["why"])


BLOCKS = list(all_blocks())


def of(language: str) -> list[Any]:
    return [
        pytest.param(block, id=block.label)
        for block in BLOCKS
        if block.language == language and not block.why_not_run
    ]


def test_every_block_is_run_or_says_why_not() -> None:
    unmarked = {block for block in BLOCKS if not block.why_not_run}
    assert {block.language for block in unmarked} <= {"", "python", *NOT_CODE}


@pytest.mark.parametrize("name", WHOLE)
def test_a_page_as_a_whole_has_its_test(name: str) -> None:
    assert f'PAGE = "{name}"' in (ROOT / WHOLE[name]).read_text()


def test_most_examples_are_run() -> None:
    python = [block for block in BLOCKS if block.language == "python"]
    assert len([block for block in python if block.why_not_run]) * 5 < len(python)


# Python

# What only the reader's project has
THEIRS = re.compile(r"yoursite|reports\.access|RQ_QUEUES|procrastinate\.contrib")


@pytest.fixture
def project(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the examples presuppose: the storages that pages name, and names of a settings file."""
    monkeypatch.setenv("QUEUED_STORAGE_HOST", "site-0")
    settings.QUEUED_STORAGE = {"QUEUE": "queued_storage.queues.immediate.ImmediateQueue"}
    others = {name: directory(tmp_path / name) for name in ("s3", "b2", "r2", "nas", "archive")}
    settings.STORAGES = settings.STORAGES | others
    settings.MEDIA_ROOT = tmp_path / "media"
    return {
        "__name__": "tests.support.testapp.example",
        "storage": default_storage,
        "content": ContentFile(b"content"),
        "BASE_DIR": tmp_path,
        "DATABASES": {"default": {"OPTIONS": {}}},
        "INSTALLED_APPS": ["queued_storage"],
        "STORAGES": dict(global_settings.STORAGES),
    }


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("block", of("python"))
def test_example_runs(block: Block, project: dict[str, Any], settings: Settings) -> None:
    with isolate_apps("tests.support.testapp"):
        exec(compile(block.code, block.label, "exec"), project)
    if project["STORAGES"] != global_settings.STORAGES:
        settings.STORAGES = settings.STORAGES | project["STORAGES"]
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | project.get("QUEUED_STORAGE", {})
    found = [error for error in checks.run_checks(tags=["queued_storage"]) if error.is_serious()]
    assert [error for error in found if not THEIRS.search(str(error.msg))] == []


# Commands


def command_lines(code: str) -> list[str]:
    """The commands of a block, without comments, redirections, and schedules of cron."""
    lines = re.sub(r"\\\n\s*", "", code).splitlines()
    commands = [re.sub(r"^(\S+ ){5} *cd \S+ && |\s+[#>].*", "", line) for line in lines]
    return [line for line in commands if line.strip()]


@pytest.mark.parametrize("block", of(""))
def test_commands_are_accepted(block: Block) -> None:
    for line in command_lines(block.code):
        require_accepted(shlex.split(line))


def require_accepted(arguments: list[str]) -> None:
    match arguments:
        case ["python", "manage.py", "queued_storage", *rest]:
            require_parsed("queued_storage", rest)
        case ["python", "manage.py", command, *rest]:
            require_parsed(command, rest)
        case ["pip", "install", *packages]:
            require_extras(packages)
        case ["make", target, *_variables]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)
        case _:
            raise AssertionError(f"{shlex.join(arguments)}: mark the block as not run, and say why")


def require_parsed(name: str, arguments: list[str]) -> None:
    command = load_command_class(get_commands()[name], name)
    parser = command.create_parser("manage.py", name)
    try:
        parser.parse_args(arguments)
    except (CommandError, SystemExit, argparse.ArgumentError) as error:
        raise AssertionError(f"{name} {shlex.join(arguments)}: {error}") from None


def require_extras(packages: list[str]) -> None:
    for package in packages:
        if found := re.fullmatch(r"django-queued-storage\[(.*)\]", package):
            extras = set(found[1].split(","))
            assert extras <= set(PROJECT["project"]["optional-dependencies"]), package


def test_a_wrong_command_is_noticed() -> None:
    for wrong in ("status --chek", "retri --all", "evict --until-free"):
        with pytest.raises(AssertionError):
            require_parsed("queued_storage", shlex.split(wrong))


INLINE = re.compile(r"`(?:python )?manage\.py queued_storage ([^`…]+)`")
MANAGE = "python manage.py queued_storage "


def commands_of_this_package() -> dict[str, str]:
    """The arguments of each command that the docs show, and a page that shows it."""
    found = {
        line.removeprefix(MANAGE): block.page
        for block in BLOCKS
        if block.language == "" and not block.why_not_run
        for line in command_lines(block.code)
        if line.startswith(MANAGE)
    }
    for path in FILES:
        for each in INLINE.findall(FENCE.sub("", path.read_text())):
            arguments = " ".join(each.split())
            if " " in arguments and "ALIAS" not in arguments:
                found.setdefault(arguments, path.stem)
    return found


COMMANDS = commands_of_this_package()
NAME = re.compile(r"(?<= )[a-z/]+[\d/]*\.[a-z]\w+")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("line", COMMANDS)
def test_command_runs(
    line: str, project: dict[str, Any], settings: Settings, child_environment: dict[str, str]
) -> None:
    """It ends, and not because its arguments are wrong."""
    verb, *arguments = shlex.split(line)
    options = {"local": "disk", "remote": "r2", "previous": ["s3"], "mirrors": ["b2"]}
    default = {"BACKEND": "queued_storage.backends.QueuedStorage", "OPTIONS": options}
    settings.STORAGES = settings.STORAGES | {"default": default}
    if "videos" in arguments:
        videos = default | {"OPTIONS": {"local": "nas", "remote": "archive"}}
        settings.STORAGES = settings.STORAGES | {"videos": videos}
    for name in ["a.txt", *NAME.findall(line)]:
        default_storage.save(name, ContentFile(name.encode()))
    if verb == "give-up":
        settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"LOCAL_PER_HOST": True}
        ledger().update(host=arguments[0])
    arguments = finite(verb, arguments)
    if "--processes" in arguments:  # starts its own command line again
        assert manage(child_environment, verb, *arguments).returncode == 0
    else:
        assert exit_code(verb, *arguments) in (0, 1)


def finite(verb: str, arguments: list[str]) -> list[str]:
    """The arguments with which a command neither asks a question nor runs for ever."""
    known = VERBS[verb]._option_string_actions
    if "--until-empty" in known:
        arguments = [*arguments, "--until-empty"]
    if "--yes" in known and (verb != "remotes" or "forget" in arguments):
        arguments = [*arguments, "--yes"]
    if verb in ("adopt", "backfill", "orphans") and "--storage" not in arguments:
        arguments = [*arguments, "--storage", "default"]  # the tests have further storages
    if "--metrics" in arguments:
        port = str(*services.free_ports(1))
        arguments[arguments.index("--metrics") + 1] = port
    return [re.sub(r"^s3://.*", "s3", each) for each in arguments]  # a place that is here


def exit_code(*arguments: str) -> int:
    try:
        run(*arguments)
    except CommandError as error:
        return error.returncode
    return 0
