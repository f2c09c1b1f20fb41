"""The translations in ``locale/``: complete, without lost placeholders, and compiled."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from babel.messages.catalog import Catalog, Message
from babel.messages.mofile import read_mo, write_mo
from babel.messages.pofile import read_po
from django.core.management import call_command
from django.db.models import CharField, Value
from django.db.models.functions import Concat
from django.utils.translation import get_language_info, override, to_language
from pytest_django import Settings

from queued_storage.ledger.jobs import Job
from queued_storage.ledger.models import QueuedFile
from queued_storage.ledger.priorities import NAMES
from queued_storage.ledger.remotes import Remote
from queued_storage.ledger.states import State
from tests.admin.pages import LIST, staff
from tests.admin.test_dashboard import NUMBERS, text_of
from tests.admin.test_overview import add, ago
from tests.support.services import require
from tests.test_docs import section

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]

PACKAGE = Path(__file__).parent.parent / "src" / "queued_storage"
LANGUAGES = sorted(path.name for path in (PACKAGE / "locale").iterdir())
PLACEHOLDER = re.compile(r"%\(\w+\)[sd]|%[sd%]|\{\w*\}|<[^>]+>|manage\.py \w+|min_age")

each_language = pytest.mark.parametrize("language", LANGUAGES)


def files(language: str, package: Path = PACKAGE) -> tuple[Path, Path]:
    directory = package / "locale" / language / "LC_MESSAGES"
    return directory / "django.po", directory / "django.mo"


def catalog(language: str, package: Path = PACKAGE) -> Catalog:
    with files(language, package)[0].open("rb") as file:
        return read_po(file, locale=language)


def messages(language: str) -> Iterator[tuple[Message, list[str], list[str]]]:
    """Yield each message with its texts and their translations: one, or one for each plural."""
    for message in catalog(language):
        if message.id:
            yield message, as_list(message.id), as_list(message.string)


def as_list(text: Any) -> list[str]:
    return [text] if isinstance(text, str) else list(text)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, for which ``make messages`` has just run."""
    require("gettext")
    package = tmp_path_factory.mktemp("messages") / "queued_storage"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "*.mo"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(package)
        call_command("makemessages", locale=LANGUAGES, no_location=True, no_wrap=True, verbosity=0)
    return package


@each_language
def test_each_text_of_the_source_is_there(written: Path, language: str) -> None:
    known = {(message.context, str(message.id)) for message in catalog(language)}
    now = {(message.context, str(message.id)) for message in catalog(language, written)}
    assert now == known, "Run 'make messages', and translate what is new."


@each_language
def test_no_translation_is_missing(language: str) -> None:
    forms = catalog(language).num_plurals
    for message, texts, translations in messages(language):
        assert not message.fuzzy, message.id
        assert len(translations) == (forms if len(texts) > 1 else 1), message.id
        assert all(translations), message.id


@each_language
def test_no_placeholder_is_lost(language: str) -> None:
    for _message, texts, translations in messages(language):
        for translation in translations:
            assert placeholders(translation) == placeholders(texts[-1]), translation


def placeholders(text: str) -> list[str]:
    return sorted(PLACEHOLDER.findall(text))


@each_language
def test_ends_and_spaces_are_kept(language: str) -> None:
    for _message, texts, translations in messages(language):
        for translation in translations:
            assert translation == translation.strip(), translation
            assert translation.endswith((".", "。")) == texts[-1].endswith("."), translation


@each_language
def test_the_compiled_file_is_current(language: str) -> None:
    with files(language)[1].open("rb") as file:
        compiled = read_mo(file)
    assert translations_in(compiled) == translations_in(catalog(language)), "Run 'make messages'."


def translations_in(catalog: Catalog) -> dict[tuple[str | None, str], list[str]]:
    return {
        (message.context, as_list(message.id)[0]): as_list(message.string)
        for message in catalog
        if message.id  # not the header
    }


def test_page_about_the_admin_names_the_languages() -> None:
    text = section("admin", "Languages")
    names = [get_language_info(to_language(language))["name"] for language in LANGUAGES]
    assert all(name in text for name in names)


# What is on the pages


PSEUDO = "en-gb"  # its translations of Django's own texts are English
DJANGOS = re.compile(
    r"[\d.,]+.(?:bytes?|[KMG]B|minutes?|hours?)|\d+ \w+ \d{4}, (?:[\d:]+ [ap]\.m\.|noon|midnight)"
)


@pytest.fixture
def pseudo(settings: Settings, tmp_path: Path) -> Iterator[None]:
    """Activate a language in which each text of the package is in «»."""
    directory = tmp_path / "en_GB" / "LC_MESSAGES"
    directory.mkdir(parents=True)
    pseudo = Catalog(locale="en_GB")
    for message, texts, _translations in messages(LANGUAGES[0]):
        marked = tuple(f"«{text}»" for text in texts)
        pseudo.add(message.id, marked if len(texts) > 1 else marked[0], context=message.context)
    with (directory / "django.mo").open("wb") as file:
        write_mo(file, pseudo)
    settings.LOCALE_PATHS = [tmp_path]
    with override(PSEUDO):
        yield


@pytest.mark.django_db
@pytest.mark.usefixtures("pseudo")
def test_each_text_of_the_dashboard_is_marked(settings: Settings) -> None:
    add(2, alias="1", host="2", size=1024, saved_at=ago(7200))
    add(1, State.TRANSFERRING, alias="1", host="2", size=2048, sent=1024, saved_at=ago(30))
    add(1, State.FAILED, alias="1", host="2", last_error="403")
    add(3, State.TRANSFERRED, alias="1", host="2", transferred_at=ago(20), size=1024)
    QueuedFile.objects.update(name=Concat(Value("1/"), "id", output_field=CharField()))
    Job.objects.create(action=Job.Action.EVICT, alias="1", pks=[1, 2], files=2)
    Remote.objects.create(alias="1", digest=1, place="3", state=Remote.State.AWAY, last_error="5")
    text = text_of(staff("view_queuedfile").get(NUMBERS).content.decode()).replace("\xa0", " ")
    while "«" in text:  # a text may contain others
        text, count = re.subn("«[^«»]*»", "", text)
        assert count, text
    for known in ("default", f"{settings.DIRECTORY}/far"):
        text = text.replace(known, "")
    assert not re.search("[A-Za-z]", DJANGOS.sub("", text)), text


@pytest.mark.django_db
@pytest.mark.usefixtures("pseudo")
def test_priorities_of_a_file_are_marked() -> None:
    for name, number in NAMES.items():
        add(1, alias=name, priority=number, saved_at=ago(1))
        pk = QueuedFile.objects.get(alias=name).pk
        assert f"«{name}»" in staff("view_queuedfile").get(f"{LIST}{pk}/change/").content.decode()
