"""``manage.py queued_storage <verb>``: inspect and manage transfers to remote storage."""

from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...exceptions import LocalStorageMissing
from ...reporting.reasons import one_line
from ..terminal import Terminal, printable
from ..verbs import VERBS, Verb
from ..verbs.base import require_ledger


class Command(BaseCommand):
    help = "Inspect and manage transfers to remote storage."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Make the parser, whose errors quote arguments that a script may have from anywhere."""
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        complain = parser.error
        # An assignment to a method is an error of types.
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
                require_ledger()
            verb_class(*streams, self.style).execute(options)
        except CommandError as error:
            raise printable(error) from error
        except (ImproperlyConfigured, LocalStorageMissing) as error:
            raise printable(CommandError(str(error))) from error
        except Exception as error:
            if str(error).isprintable():
                raise
            # Its traceback would be printed as it is.
            raise printable(CommandError(f"{type(error).__name__}: {error}")) from error
