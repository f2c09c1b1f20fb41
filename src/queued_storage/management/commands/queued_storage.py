"""``manage.py queued_storage <verb>``: inspect and manage transfers to remote storage."""

from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError

from ..verbs import VERBS, Verb
from ..verbs.base import require_ledger


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
            require_ledger()
        try:
            verb_class(self.stdout, self.stderr, self.style).execute(options)
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
