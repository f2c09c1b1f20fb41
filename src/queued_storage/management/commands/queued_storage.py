"""``manage.py queued_storage <verb>``: inspect and manage transfers to remote storage."""

from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connections

from ...ledger.database import ledger_database
from ...ledger.models import QueuedFile
from ...reporting.reasons import one_line
from ..terminal import Terminal, printable
from ..verbs import VERBS, Verb


class Command(BaseCommand):
    help = "Inspect and manage transfers to remote storage."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Make the parser, whose errors quote arguments that a script may have from anywhere."""
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        complain = parser.error
        setattr(parser, "error", lambda message: complain(one_line(message)))  # noqa: B010
        return parser

    def add_arguments(self, parser: ArgumentParser) -> None:
        subparsers = parser.add_subparsers(dest="verb", required=True, metavar="subcommand")
        for verb in VERBS:
            subparser = subparsers.add_parser(verb.name, help=verb.help, description=verb.help)
            verb.add_arguments(subparser)
            subparser.set_defaults(verb_class=verb)

    def handle(self, *args: Any, verb_class: type[Verb], **options: Any) -> None:
        streams = Terminal(self.stdout), Terminal(self.stderr)
        try:
            if verb_class.needs_ledger:
                _require_table()
            verb_class(*streams, self.style).execute(options)
        except CommandError as error:
            raise printable(error) from error
        except ImproperlyConfigured as error:
            raise printable(CommandError(str(error))) from error
        except Exception as error:
            if str(error).isprintable():
                raise
            # Its traceback would be printed as it is.
            raise printable(CommandError(f"{type(error).__name__}: {error}")) from error


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
