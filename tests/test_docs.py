"""The docs match the code: they describe everything that exists, and nothing else.

Tables are looked up by the text of their first header cell, or by their heading.
"""

import argparse
import ast
import dataclasses
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import global_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.files.base import ContentFile
from django.core.files.storage import Storage, storages
from django.core.management.base import BaseCommand
from django.db import models
from django.dispatch import Signal
from django.test import TestCase, override_settings
from django.utils import timezone
from django.utils.module_loading import import_string
from pytest_django import Settings

from queued_storage import backend, backends, conf, exceptions, health, prefetch, signals, tasks
from queued_storage.admin import actions, dashboard, errors, log, overview, preview
from queued_storage.backends import QueuedStorage
from queued_storage.conf import OPTIONS
from queued_storage.fields import QueuedFieldFile
from queued_storage.ledger import measures, throughput
from queued_storage.ledger.copies import Copy
from queued_storage.ledger.database import ledger
from queued_storage.ledger.jobs import MAX_FINDINGS, Job
from queued_storage.ledger.models import MAX_FAILURES, NAME_MAX_BYTES, NAME_MAX_LENGTH, QueuedFile
from queued_storage.ledger.names import COMPONENT_MAX_BYTES, PROBE_NAME
from queued_storage.ledger.preparations import Preparation
from queued_storage.ledger.remotes import Remote, RemoteState
from queued_storage.management.commands.queued_storage import Command
from queued_storage.management.verbs import listing, showing
from queued_storage.operations import contract, failures, status
from queued_storage.operations import jobs as operations_jobs
from queued_storage.operations.details import details_of
from queued_storage.queues.base import BaseQueue
from queued_storage.remotes import faults, faults_s3
from queued_storage.reporting import logs
from queued_storage.storage.results import TransferResult
from queued_storage.storage.routes import PER_PROCESS_TIMEOUT
from queued_storage.testing import Fault, drain
from queued_storage.transfers import work

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGE = ROOT / "src" / "queued_storage"
PAGES = sorted(path.stem for path in DOCS.glob("*.md"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

FENCED = re.compile(r"^```(.*?)\n(.*?)^```$", re.M | re.S)
CODE = re.compile(r"`([^`\n]+)`")


# The pages


def page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text()


def texts() -> dict[str, str]:
    """Return the text of all pages that are compared with the code, by name."""
    return {name: page(name) for name in PAGES} | {"README": (ROOT / "README.md").read_text()}


def blocks(text: str, language: str) -> list[str]:
    return [code for name, code in FENCED.findall(text) if name == language]


def prose(text: str) -> str:
    return FENCED.sub("", text)


def section(name: str, heading: str) -> str:
    """Return the text under a heading, up to the next heading of its level or above."""
    text = page(name)
    # A comment in a block of code looks like a heading.
    prose = FENCED.sub(lambda block: block[0].replace("#", " "), text)
    [start] = re.finditer(rf"^(#+) {re.escape(heading)}$", prose, re.M)
    end = re.search(rf"^#{{1,{len(start[1])}}} ", prose[start.end() :], re.M)
    return text[start.end() :][: end.start() if end else None]


def tables(text: str) -> Iterator[list[list[str]]]:
    """Yield the rows of each table as lists of cells, starting with the header."""
    for table in re.findall(r"(?:^\|.*\|\n)+", text + "\n", re.M):
        rows = [line.strip("|").split("|") for line in table.splitlines()]
        yield [[cell.strip() for cell in row] for row in rows[:1] + rows[2:]]


def table(text: str, header: str) -> dict[str, list[str]]:
    """Return the other cells of each row by the code in the first cell."""
    [found] = [rows for rows in tables(text) if rows[0][0].startswith(header)]
    return {code(row[0]): row[1:] for row in found[1:]}


def code(cell: str) -> str:
    found = CODE.findall(cell)
    return found[0] if found else cell


def flat(text: str) -> str:
    """Return the text without line breaks, to search for phrases."""
    return " ".join(text.split())


def words(text: str) -> set[str]:
    """Return all text in code font outside of code blocks."""
    return set(CODE.findall(prose(text)))


def literal(cell: str) -> Any:
    return ast.literal_eval(code(cell))


# Settings


def test_every_setting_is_documented_with_its_default() -> None:
    settings = table(page("settings"), "key")
    assert {key: literal(cells[0]) for key, cells in settings.items()} == {
        key: option.default for key, option in OPTIONS.items()
    }


def test_times_have_a_unit() -> None:
    settings = table(page("settings"), "key")
    rules = {conf.SECONDS, conf.SECONDS_OR_ZERO, conf.DURATION}
    times = {key for key, option in OPTIONS.items() if option.rule in rules}
    assert {key for key, cells in settings.items() if cells[1] == "seconds"} == times


def test_the_flat_names() -> None:
    flat = table(page("settings"), "setting")
    assert {name: code(cells[0]) for name, cells in flat.items()} == {
        name: key for key, option in OPTIONS.items() for name in option.flat_names
    }


def test_every_level_of_verification() -> None:
    about_levels = [rows for rows in tables(page("verification")) if rows[0][0] == "level"]
    assert len(about_levels) == 2
    for rows in about_levels:
        assert [code(row[0]).strip('"') for row in rows[1:]] == list(conf.VERIFY_LEVELS)


def test_how_long_the_default_retries_take() -> None:
    pauses = [
        min(OPTIONS["RETRY_DELAY"].default * 2**number, OPTIONS["RETRY_MAX_DELAY"].default)
        for number in range(OPTIONS["RETRIES"].default)
    ]
    assert len(pauses) + 1 == 6
    assert 25 * 60 < sum(pauses) < 35 * 60
    assert "attempted six times within about half an hour" in flat(page("settings"))


def test_numbers_that_the_pages_repeat() -> None:
    names = flat(section("storages", "Names"))
    assert f"{NAME_MAX_LENGTH} characters" in names
    assert f"{NAME_MAX_BYTES:,} bytes" in names
    assert f"{COMPONENT_MAX_BYTES} bytes" in names
    assert f"at most {PER_PROCESS_TIMEOUT} seconds" in flat(page("settings"))
    assert PER_PROCESS_TIMEOUT == 5
    assert "for five seconds" in flat(page("guarantees"))
    assert BaseQueue.batch_size == 100
    assert "one hundred" in flat(page("queues"))


# Remotes


def test_every_check_of_a_remote_is_explained() -> None:
    checks_ = [*contract.CHECKS, contract.CLEAN_UP]
    assert list(table(page("remotes"), "check")) == checks_
    meanings = re.search(r"^What the checks mean:$(.*?)^## ", page("remotes"), re.M | re.S)
    assert meanings
    explained = re.findall(r"^- (.*?):", meanings[1], re.M)
    named = [word for words_of_line in explained for word in CODE.findall(words_of_line)]
    assert sorted(named) == sorted(checks_)


def test_every_fault_of_a_remote_and_its_examples() -> None:
    text = section("remotes", "Whose fault an error is")
    rows = next(tables(text))[1:]
    for (_who, examples), fault in zip(rows, faults.Fault, strict=True):
        for example in CODE.findall(examples):
            known = faults_s3.CODES.get(example, fault)
            assert known is fault, f"{example} is {known}"
    assert {faults.HOOK, PROBE_NAME} <= words(text)
    assert {f'"{answer}"' for answer in faults.ANSWERS} <= words(text)


def test_azure_emulator_matches_the_makefile() -> None:
    [version] = re.findall(r"azurite@(\S+)", (ROOT / "Makefile").read_text())
    assert f"Azurite {version}" in page("remotes")


# Storages


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def test_every_option_of_the_storage() -> None:
    options = table(section("storages", "Options"), "option")
    assert list(options) == parameters(QueuedStorage.__init__)


def test_the_options_that_may_be_given_by_position() -> None:
    given = inspect.signature(QueuedStorage.__init__).parameters.values()
    kinds = [parameter.kind for parameter in given if parameter.name != "self"]
    assert kinds.index(inspect.Parameter.KEYWORD_ONLY) == 7
    assert "The first seven options may be passed positionally" in page("storages")


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


def test_every_method_and_property_of_the_storage() -> None:
    methods = table(section("storages", "Methods"), "method")
    properties = set(table(section("storages", "Methods"), "property"))
    internal = re.search(r"Other public attributes \((.*?)\)", page("storages"), re.S)
    assert internal
    internal_names = set(CODE.findall(internal[1]))
    names = {call.partition("(")[0] for call in methods}
    assert names | properties | internal_names == public(QueuedStorage)
    assert properties <= {name for name in public(QueuedStorage) if is_property(name)}
    assert not names & properties
    assert not internal_names & public(Storage)


def is_property(name: str) -> bool:
    return isinstance(inspect.getattr_static(QueuedStorage, name), property)


@pytest.mark.parametrize("call", table(section("storages", "Methods"), "method"))
def test_the_arguments_of_a_method(call: str) -> None:
    assert_signature(QueuedStorage, call)


def assert_signature(cls: type, call: str) -> None:
    name, _bracket, arguments = call.rstrip(")").partition("(")
    signature = inspect.signature(getattr(cls, name))
    shown = [
        str(parameter.replace(annotation=inspect.Parameter.empty))
        for parameter in signature.parameters.values()
        if parameter.name != "self"
    ]
    assert arguments == ", ".join(shown)


def test_every_attribute_of_a_result() -> None:
    attributes = table(page("storages"), "attribute")
    names = {attribute.partition("(")[0] for attribute in attributes}
    assert names == public(TransferResult) - {"enqueued"} | {"pk"}
    for attribute in attributes:
        if "(" in attribute:
            assert_signature(TransferResult, attribute)


def test_every_attribute_of_a_field_file() -> None:
    attributes = table(page("fields"), "attribute")
    own = {name for name in vars(QueuedFieldFile) if not name.startswith("_")}
    assert {attribute.removesuffix("()") for attribute in attributes} == own


def test_every_preset() -> None:
    presets = section("storages", "Presets")
    gone = {name for name in vars(backends) if is_gone(getattr(backends, name))}
    assert set(table(presets, "class in")) == set(backends.__all__)
    assert words(presets.rpartition("|")[2]) == {name for name in gone if name[0] != "_"}


def is_gone(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, backends._GoneStorage)


def test_every_name_of_0_3() -> None:
    names = section("upgrading", "Names from 0.3")
    assert set(table(names, "name")) == set(backend.__all__)
    known = set(parameters(backend.QueuedRemoteStorage.__init__)) - {"options"}
    assert set(table(names, "argument")) == known


# The ledger


def test_every_state() -> None:
    states = table(section("ledger", "States"), "state")
    assert {name: code(cells[0]) for name, cells in states.items()} == {
        state.name: state.value for state in QueuedFile.State
    }


def test_every_state_of_a_remote() -> None:
    assert list(table(page("outages"), "state")) == RemoteState.values


def test_every_state_is_in_the_diagram() -> None:
    [diagram] = blocks(page("ledger"), "text")
    assert set(re.findall(r"\b[A-Z]{4,}\b", diagram)) == set(QueuedFile.State.names)


def test_every_column() -> None:
    columns = [field.name for field in QueuedFile._meta.concrete_fields]
    assert list(table(page("ledger"), "column")) == columns


def test_the_properties_of_a_row() -> None:
    [line] = [line for line in page("ledger").splitlines() if "are properties" in line]
    inherited = public(models.Model)
    own = {
        name
        for name in public(QueuedFile) - inherited
        if isinstance(inspect.getattr_static(QueuedFile, name), property)
    }
    assert set(CODE.findall(line)) == own


def test_every_permission() -> None:
    assert list(table(page("admin"), "permission")) == [
        codename
        for options in (QueuedFile._meta, Job._meta, Preparation._meta, Remote._meta)
        for codename in (
            *(f"{action}_{options.model_name}" for action in options.default_permissions),
            *(codename for codename, _label in options.permissions),
        )
    ]


def test_numbers_of_the_admin() -> None:
    text = flat(page("admin"))
    assert f"up to {actions.MAX_ROWS:,} files" in text
    assert f"up to {actions.MAX_FILES:,} files" in text
    assert f"the first {MAX_FINDINGS} problems" in text
    assert f"more than {log.MAX_ENTRIES} files" in text
    assert (operations_jobs.MAX_ATTEMPTS, operations_jobs.SLICE) == (3, 20)
    assert "for twenty seconds" in flat(page("queues"))
    assert "interrupted three times" in text
    assert f"up to {preview.MAX_SIZE // 2**20} MB" in text
    assert f"no more than {overview.LIMIT:,} files" in text
    assert f"a chart includes {overview.LIMIT * 5:,} transfers" in text
    assert (dashboard.SECONDS, overview.MINUTES, MAX_FAILURES) == (5, 15, 10)
    assert f"up to {failures.LIMIT:,} at a time" in text
    assert f"Up to {errors.READ:,} failed files of a storage and {errors.READ:,} waiting" in text
    assert f"up to {throughput.MOST_PENDING:,} per storage" in text
    assert {60: timedelta(hours=4), 900: timedelta(days=8)} == throughput.KEPT
    for words_of_them in (
        "every five seconds",
        "the last 15 minutes, 3 hours, day, or week",
        "the last ten attempts",
    ):
        assert words_of_them in text
    shown = {kind.partition("/")[2] for kind in preview.CONTENT_TYPES}
    assert shown == {name.lower() for name in ("AVIF", "BMP", "GIF", "JPEG", "PNG", "WebP")}
    assert "AVIF, BMP, GIF, JPEG, PNG, and WebP" in text


# Commands


def verbs() -> dict[str, argparse.ArgumentParser]:
    parser = Command().create_parser("manage.py", "queued_storage")
    [subparsers] = [
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    ]
    choices: dict[str, argparse.ArgumentParser] = subparsers.choices
    return choices


VERBS = verbs()
DJANGO_OPTIONS = BaseCommand().create_parser("manage.py", "any")._option_string_actions


def arguments(verb: str) -> dict[str, Any]:
    """Return the default of each argument, except those that all Django commands have."""
    return {
        name: action.default
        for action in VERBS[verb]._actions
        for name in action.option_strings or [action.dest]
        if name not in DJANGO_OPTIONS
    }


def test_every_verb() -> None:
    assert re.findall(r"^## (\S+)$", page("commands"), re.M) == list(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_of_a_verb(verb: str) -> None:
    [rows] = tables(section("commands", verb))
    assert {code(row[0]) for row in rows[1:]} == set(arguments(verb))
    if rows[0][1] == "default":
        shown = {code(row[0]): literal(row[1]) for row in rows[1:] if row[1]}
        assert shown.items() <= arguments(verb).items()


@pytest.mark.django_db
def test_keys_of_lists_and_details() -> None:
    row = ledger().create(alias="default", name="a.txt", saved_at=timezone.now())
    of_list, of_show = words(section("commands", "list")), words(section("commands", "show"))
    listed, shown = listing.as_json(row), showing.as_json_of(details_of(row))
    assert set(listed) <= of_list
    assert set(shown) - set(listed) <= of_show


def test_commands_in_the_pages_can_be_run() -> None:
    calls = [
        (name, verb, rest)
        for name, text in texts().items()
        for verb, rest in re.findall(
            r"\bqueued_storage ([a-z]+(?:-[a-z]+)*)\b([^`\n|]*)", shown(text)
        )
    ]
    assert len(calls) > 10
    for name, verb, rest in calls:
        assert verb in VERBS, f"{name}: {verb}"
        for option in re.findall(r"--[\w-]+", rest):
            assert option in arguments(verb), f"{name}: {verb} {option}"


def shown(text: str) -> str:
    """Return only code: blocks that are not Python, and words in code font."""
    return "\n".join([*blocks(text, ""), *words(text)])


# Checks, signals, queues, tasks, exceptions, extras


def test_every_check() -> None:
    source = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    ids = re.findall(r'id="(queued_storage\.[EW]\d+)"', source)
    assert list(table(page("checks"), "id")) == sorted(ids)


def test_no_other_check_is_named() -> None:
    named = {word for text in texts().values() for word in re.findall(r"\b[EW]\d{3}\b", text)}
    assert named == {key.partition(".")[2] for key in table(page("checks"), "id")}


def test_links_in_messages_lead_to_sections(tmp_path: Path) -> None:
    """By the ids in the pages as Sphinx builds them."""
    pytest.importorskip("sphinx")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", str(DOCS), str(tmp_path)]
    subprocess.run(command, check=True, timeout=100)
    links = sorted({link for path in PACKAGE.rglob("*.py") for link in links_in(path)})
    assert links
    for link in links:
        name, mark, anchor = link.partition("#")
        built = tmp_path / f"{name}.html"
        assert built.is_file(), link
        assert not mark or f'id="{anchor}"' in built.read_text(), link


def links_in(path: Path) -> Iterator[str]:
    """Yield the pages and sections that a module's messages point to, which are all constants."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "see":
            yield ast.literal_eval(node.args[0])


def test_every_hint_of_a_check_is_a_link() -> None:
    hints = [
        keyword.value
        for path in [*(PACKAGE / "checks").glob("*.py"), PACKAGE / "ledger" / "installation.py"]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"Error", "Warning"}
        for keyword in node.keywords
        if keyword.arg == "hint"
    ]
    ids = table(page("checks"), "id")
    assert len(hints) == len(ids)
    for hint in hints:
        assert re.search(r"\bsee\(|\b(PAGE|ADVICE)\b", ast.unparse(hint)), ast.unparse(hint)


def test_every_signal() -> None:
    known = {name for name, found in vars(signals).items() if isinstance(found, Signal)}
    assert set(table(page("signals"), "signal in")) == known


def queue_classes() -> dict[str, list[str]]:
    """Return the options of each adapter by dotted path.

    They are read from the source, because the library may not be installed.
    """
    found = {}
    for path in sorted((PACKAGE / "queues").glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and "BaseQueue" in map(ast.unparse, node.bases):
                found[f"queued_storage.queues.{path.stem}.{node.name}"] = constructor_options(node)
    return found


def constructor_options(node: ast.ClassDef) -> list[str]:
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
            given = method.args
            names = [argument.arg for argument in [*given.args[1:], *given.kwonlyargs]]
            defaults = [ast.unparse(default) for default in [*given.defaults, *given.kw_defaults]]
            pairs = zip(names, defaults, strict=True)
            return [f"{name}={default}".replace("'", '"') for name, default in pairs]
    return []


def test_every_queue_and_its_options() -> None:
    queues = table(page("queues"), "class")
    assert {path: CODE.findall(cells[0]) for path, cells in queues.items()} == queue_classes()


def test_every_task() -> None:
    assert set(table(page("tasks"), "class in")) == set(tasks.__all__)


def test_every_exception_and_its_bases() -> None:
    shown = table(page("exceptions"), "exception")
    known = {
        name: [base.__name__ for base in found.__bases__]
        for name, found in vars(exceptions).items()
        if isinstance(found, type) and found.__module__ == exceptions.__name__
    }
    assert {name: CODE.findall(cells[0]) for name, cells in shown.items()} == known


def test_every_extra() -> None:
    rows = [row for rows in tables(page("dependencies")) for row in rows[1:]]
    assert {code(row[0]) for row in rows} == set(PROJECT["project"]["optional-dependencies"])


def test_extras_that_are_named_can_be_installed() -> None:
    for text in texts().values():
        for extra in re.findall(r"django-queued-storage\[(.*?)\]", text):
            assert extra in PROJECT["project"]["optional-dependencies"]


def test_every_fault() -> None:
    assert list(table(page("testing"), "fault")) == [str(fault) for fault in Fault]


def test_the_oldest_versions() -> None:
    assert PROJECT["project"]["requires-python"] == ">=3.11"
    assert PROJECT["project"]["dependencies"] == ["Django>=5.2"]
    for name in ("index", "dependencies", "README"):
        assert re.search(r"Python 3\.11.* Django 5\.2", texts()[name], re.S)


# Monitoring


def labels_in(header: str) -> dict[str, set[str]]:
    """Return the labels of each metric in the table with this header."""
    return {
        name: set(CODE.findall(cells[0]))
        for name, cells in table(section("monitoring", "Metrics"), header).items()
    }


def test_every_gauge_and_its_labels() -> None:
    pytest.importorskip("prometheus_client")
    from queued_storage import metrics

    assert labels_in("gauge") == {
        f"queued_storage_{name}": set(labels) for name, (_text, labels) in metrics.GAUGES.items()
    }


def test_every_counter_and_its_labels() -> None:
    client = pytest.importorskip("prometheus_client")
    from queued_storage import metrics

    registry = client.CollectorRegistry()
    metrics.Counters(registry).expect("default")
    assert labels_in("counter") == {
        family.name + ("_total" if family.type == "counter" else ""): {
            label for sample in family.samples for label in sample.labels if label != "le"
        }
        for family in registry.collect()
    }


def test_the_times_of_a_scrape() -> None:
    pytest.importorskip("prometheus_client")
    from queued_storage import metrics

    assert (metrics.TIMEOUT, metrics.SETTLED_EVERY) == (5, 300)
    assert "within five seconds" in flat(section("monitoring", "Metrics"))
    assert "every five minutes" in flat(section("monitoring", "Metrics"))


def test_every_limit_of_the_health_check() -> None:
    limits = [field.name for field in dataclasses.fields(health.Limits)]
    assert list(table(section("monitoring", "Health"), "limit")) == limits
    assert health.TIMEOUT == 3
    assert health.MAX_AWAY == status.MAX_AWAY.total_seconds() == 300
    assert "this one is 300" in flat(section("monitoring", "Health"))
    assert "Defaults to five minutes" in section("commands", "status")
    assert "within three seconds" in flat(section("monitoring", "Health"))
    assert measures._MOST_WAITING == 4
    assert "at most four such threads" in flat(section("monitoring", "Health"))


def test_every_field_of_a_log_record() -> None:
    assert tuple(table(section("monitoring", "Logs"), "field")) == logs.KEYS


def test_every_span_and_its_attributes() -> None:
    wings = ("transfers", "storage")
    source = "".join(path.read_text() for wing in wings for path in (PACKAGE / wing).glob("*.py"))
    steps = [*work.FIRST_STEPS.values(), work.EVICT]
    operations = {step.operation for step in steps} - {None}
    operations |= set(re.findall(r'\bspan\(\s*"(\w+)"', source))
    calls = re.findall(r"\b(?:span|span_of_step\.note)\((.*?)\)", source, re.S)
    names = {name for call in calls for name in re.findall(r"\b(\w+)=", call)}
    traces = section("monitoring", "Traces")
    assert set(table(traces, "span")) == {f"queued_storage.{name}" for name in operations}
    assert set(table(traces, "attribute")) - {"error.type"} == {
        f"queued_storage.{name}" for name in names
    }


def test_every_alert() -> None:
    rules = (DOCS / "_static" / "queued-storage-alerts.yml").read_text()
    assert list(table(page("monitoring"), "alert")) == re.findall(r"- alert: (\w+)", rules)


# Architecture


LAYERS = [
    room.strip(" ()")
    for floor in PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    for room in floor.split(":")
]


def test_every_package_has_a_description() -> None:
    wings = {
        path.parent.name: (ast.get_docstring(ast.parse(path.read_text())) or "").replace("``", "`")
        for path in PACKAGE.glob("*/__init__.py")
        if path.parent.name != "migrations"
    }
    assert table(page("architecture"), "wing") == {
        wing: [wings[wing]] for wing in LAYERS if wing in wings
    }
    assert set(wings) <= set(LAYERS)


def test_every_public_module_has_a_description() -> None:
    rooms = table(page("architecture"), "module")
    assert all(cells[0].endswith(".") for cells in rooms.values())
    there = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} | {"migrations"}
    assert list(rooms) == [room for room in LAYERS if room in there]
    assert set(rooms) == there


# Text in code font


PATH = re.compile(r"""(?<![\w./-])queued_storage(?:\.\w+)+""")
NO_PATH = re.compile(r"queued_storage\.([EW]\d{3}|run|sweep)")
SPANS = {*table(section("monitoring", "Traces"), "span")}
SPANS |= {*table(section("monitoring", "Traces"), "attribute")}


def test_dotted_paths_exist() -> None:
    found = {path for text in texts().values() for path in PATH.findall(text)}
    for path in found:
        if not NO_PATH.fullmatch(path) and path not in SPANS:
            assert exists(path), path


def exists(path: str) -> bool:
    try:
        import_string(path)
    except (ImportError, ImproperlyConfigured):
        return is_file(path) or is_defined(path)
    return True


def is_file(path: str) -> bool:
    place = PACKAGE.parent / path.replace(".", "/")
    return any(place.with_suffix(suffix).exists() for suffix in ("", ".py"))


def is_defined(path: str) -> bool:
    """Read the source of the module, because its library may not be installed."""
    module, _dot, name = path.rpartition(".")
    if not is_file(module):
        return False
    body = ast.parse((PACKAGE.parent / f"{module.replace('.', '/')}.py").read_text()).body
    return name in {getattr(node, "name", None) for node in body}


# SQL, options of Django, a file
OTHER_CAPITALS = {
    "BACKEND",
    "BASE_DIR",
    "CONTRIBUTING",
    "FULL",
    "IMMEDIATE",
    "LOCKED",
    "NORMAL",
    "OPTIONS",
}
OTHER_CAPITALS |= {"CONN_MAX_AGE", "INSERT", "QUEUES", "SKIP", "TASKS", "UPDATE"}
OTHER_CAPITALS |= {"ASCII", "ATOMIC_REQUESTS", "HEAD", "SIGINT", "SIGTERM"}
OTHER_CAPITALS |= {"BENCH_ARGS", "ENOSPC", "EROFS", "NO_COLOR", "PGOPTIONS", "TERM"}
OTHER_CAPITALS |= {"DEFAULT_FILE_STORAGE"}  # of earlier versions of Django
# Those of django-tenants
OTHER_CAPITALS |= {"SHARED_APPS", "TENANT_APPS"}
# Task queues and databases
OTHER_CAPITALS |= {"ALT_CLUSTERS", "COMMIT_MODE", "DEFAULT_TIMEOUT", "Q_CLUSTER", "RQ_QUEUES"}
OTHER_CAPITALS |= {
    "ADDRESS",
    "ERROR",
    "INFO",
    "MLSD",
    "PORT",
    "PROMETHEUS_MULTIPROC_DIR",
    "WARNING",
}
OTHER_CAPITALS |= {f"DJANGO_SUPERUSER_{name}" for name in ("EMAIL", "PASSWORD", "USERNAME")}
OTHER_CAPITALS |= {"HEADER", "LOCATION", "MAX_BYTES", "ROOT"}  # keys of dictionaries in settings
OTHER_CAPITALS |= {"PASS", "REPLACE", "LATER", "REJECT", "JPEG", "PNG", "WEBP", "GIF", "SCAN"}
OTHER_CAPITALS |= {"UPLOADED_FILES_USE_URL"}
OTHER_CAPITALS |= {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}  # in the environment
OTHER_CAPITALS |= {"ECOSYSTEM_SUITES", "WAGTAILDOCS_SERVE_METHOD"}
OTHER_CAPITALS |= {"HUEY", "PROCRASTINATE_DATABASE_ALIAS", "Q_CLUSTER_NAME", "RUNNING"}


def test_capitals_in_code_font_are_settings_or_states() -> None:
    states = {*QueuedFile.State.names, *Copy.State.names, *Preparation.State.names}
    known = set(OPTIONS) | states | set(dir(global_settings)) | OTHER_CAPITALS
    for name, text in texts().items():
        shouted = {
            word
            for span in words(text)
            if not span.startswith("QUEUED_STORAGE")
            for word in re.findall(r"\b[A-Z][A-Z_]{3,}\b", span)
        }
        assert shouted <= known, name


def test_keys_of_the_settings_dict_in_examples() -> None:
    dicts = [
        node.value
        for text in texts().values()
        for source in blocks(text, "python")
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "QUEUED_STORAGE"
    ]
    assert dicts
    for given in dicts:
        assert {ast.literal_eval(key) for key in given.keys} <= set(OPTIONS)


def test_calls_in_code_font_are_known() -> None:
    """Only for pages without methods of Django or Celery."""
    for name in ("storages", "guarantees", "fields"):
        for call in re.findall(r"`(\w+)\(", prose(page(name))):
            places = (QueuedStorage, TransferResult, prefetch)
            assert any(hasattr(place, call) for place in places), f"{name}: {call}"


def python_blocks() -> list[Any]:
    return [
        pytest.param(source, id=f"{name}-{number}")
        for name, text in texts().items()
        for number, source in enumerate(blocks(text, "python"))
    ]


@pytest.mark.parametrize("source", python_blocks())
def test_examples_compile_and_import_existing_names(source: str) -> None:
    compile(source, "<docs>", "exec")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("queued_storage"):
            for alias in node.names:
                assert exists(f"{node.module}.{alias.name}")


def test_make_targets() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    for text in texts().values():
        for target in re.findall(r"(?:^|`)make (\w+)", text, re.M):
            assert target in targets


@pytest.mark.parametrize("file", [*(f"docs/{name}.md" for name in PAGES), "README.md"])
def test_links_point_to_files(file: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / file).read_text()):
        if "://" not in target:
            assert ((ROOT / file).parent / target).exists(), target


def test_every_page_is_in_the_contents() -> None:
    contents = "\n".join(source for name, source in FENCED.findall(page("index")))
    listed = [line for line in contents.splitlines() if line and not line.startswith(":")]
    assert sorted([*listed, "index"]) == PAGES


# The tutorial, which has the steps of example/adoption.py


def test_the_tutorial_has_the_steps_of_the_script() -> None:
    script = ast.parse((ROOT / "example" / "adoption.py").read_text())
    calls = [node for node in ast.walk(script) if isinstance(node, ast.Call)]
    run = [
        (call.lineno, ast.literal_eval(call.args[0]))
        for call in calls
        if ast.unparse(call.func) == "site.run"
    ]
    shown = "\n".join(blocks(page("tutorial-wagtail"), ""))
    lines = [line for line in shown.splitlines() if line.startswith(("python manage", "wagtail "))]
    assert [line for line in lines if " runserver" not in line] == [
        command for _line, command in sorted(run)
    ]


def test_the_tutorial_has_the_files_of_the_script() -> None:
    text = page("tutorial-wagtail")
    pieces = [block for name in ("python", "html+django") for block in blocks(text, name)]
    script = ast.parse((ROOT / "example" / "adoption.py").read_text())
    values = [node.value for node in script.body if isinstance(node, ast.Assign)]
    texts = [value.value for value in values if isinstance(value, ast.Constant)]
    assert sorted(pieces) == sorted(text[1:] for text in texts if str(text).startswith("\n"))
    assert len(pieces) == 4


# Examples that run as tests


def names_of(source: str, **given: Any) -> dict[str, Any]:
    namespace: dict[str, Any] = given
    exec(compile(source, "<docs>", "exec"), namespace)
    del namespace["__builtins__"]
    return namespace


def first_settings(name: str) -> dict[str, Any]:
    found = blocks(texts()[name], "python")
    source = next(source for source in found if "STORAGES =" in source)
    return names_of(source, INSTALLED_APPS=[], BASE_DIR=Path("/srv/mysite"))


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["quickstart", "README"])
def test_first_settings_create_a_working_storage(
    name: str, settings: Settings, tmp_path: Path
) -> None:
    given = first_settings(name)
    assert "queued_storage" in given["INSTALLED_APPS"]
    settings.STORAGES = given["STORAGES"] | {"s3": directory(tmp_path / "s3")}
    settings.MEDIA_ROOT = tmp_path / "media"
    saved = storages["default"].save("hello.txt", ContentFile(b"Hello"))
    assert (tmp_path / "media" / saved).read_bytes() == b"Hello"
    assert drain() == {}
    assert (tmp_path / "s3" / saved).read_bytes() == b"Hello"
    assert storages["default"].using_remote(saved)  # type: ignore[attr-defined]


def directory(path: Path) -> dict[str, Any]:
    return {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": path, "base_url": "https://far.example/"},
    }


def test_the_readme_has_the_settings_of_the_quickstart() -> None:
    quickstart, readme = first_settings("quickstart"), first_settings("README")
    endpoint = quickstart["STORAGES"]["s3"]["OPTIONS"].pop("endpoint_url")
    assert endpoint is None
    for name in ("STORAGES", "MEDIA_ROOT", "MEDIA_URL"):
        assert readme[name] == quickstart[name]


@pytest.mark.parametrize("name", ["quickstart", "README"])
def test_s3_storage_of_the_first_settings_works(name: str) -> None:
    s3 = first_settings(name)["STORAGES"]["s3"]
    import_string(s3["BACKEND"])(**s3["OPTIONS"])


def examples_to_run(name: str, **settings: Any) -> dict[str, Any]:
    """Return the test cases of a page, with its settings, for pytest to collect."""
    found: dict[str, Any] = {}
    for source in blocks(page(name), "python"):
        given = names_of(source) if "TestCase" in source or "BaseQueue" in source else {}
        for label, value in given.items():
            if isinstance(value, type) and label.endswith("Test"):
                found[f"Test{name.title()}{label}"] = override_settings(**settings)(value)
    return found


def settings_in(name: str, setting: str) -> Any:
    """Return the first value of a setting in the examples of a page."""
    for source in blocks(page(name), "python"):
        for node in ast.parse(source).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == setting:
                return ast.literal_eval(node.value)
    raise AssertionError(f"{name} has no {setting}")


globals().update(
    examples_to_run(
        "testing",
        STORAGES=settings_in("testing", "STORAGES"),
        QUEUED_STORAGE=settings_in("testing", "QUEUED_STORAGE"),
    )
)


def test_the_examples_of_tests_are_run() -> None:
    cases = [found for found in globals().values() if is_case(found)]
    assert len(cases) == page("testing").count("(TestCase):") == 3


def is_case(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, TestCase) and found is not TestCase


# The adapter of the guide passes the contract that the guide shows.
_adapter: dict[str, Any] = {}
exec(
    "\n".join(
        source
        for source in blocks(section("queues", "Writing a queue adapter"), "python")
        if "DequeQueue" in source
    ),
    _adapter,
)
TestDequeQueue = _adapter["TestDequeQueue"]


def test_each_guarantee_names_its_tests() -> None:
    promises = re.split(r"^## \d\. ", page("guarantees"), flags=re.M)[1:]
    assert len(promises) == 9
    for promise in promises:
        shown = re.search(r"^Tested by (.*?)\.$", promise, re.M | re.S)
        assert shown, promise.splitlines()[0]
        for path in CODE.findall(shown[1]):
            assert (ROOT / path).is_file(), path
