"""``manage.py queued_storage <verb>``: inspect and manage transfers to remote storage."""

from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connections

from ...ledger.database import ledger_database
from ...ledger.models import QueuedFile
from ..verbs import VERBS, Verb


class Command(BaseCommand):
    help = "Inspect and manage transfers to remote storage."

    def add_arguments(self, parser: ArgumentParser) -> None:
        subparsers = parser.add_subparsers(dest="verb", required=True, metavar="subcommand")
        for verb in VERBS:
            subparser = subparsers.add_parser(verb.name, help=verb.help, description=verb.help)
            verb.add_arguments(subparser)
            subparser.set_defaults(verb_class=verb)

    def handle(self, *args: Any, verb_class: type[Verb], **options: Any) -> None:
        if verb_class.needs_ledger:
            _require_table()
        try:
            verb_class(self.stdout, self.stderr, self.style).execute(options)
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error


def _require_table() -> None:
    """Explain what to do if the app's migrations haven't been run."""
    database = ledger_database()
    try:
        tables = connections[database].introspection.table_names()
    except DatabaseError:  # unreachable: a worker waits for it, and other verbs report it
        return
    if QueuedFile._meta.db_table not in tables:
        option = "" if database == "default" else f" --database {database}"
        raise CommandError(
            f"The database {database!r} has no table for the ledger. "
            f"Run 'manage.py migrate{option}'."
        )
