"""``manage.py queued_storage <verb>``: inspect and manage transfers to remote storage."""

import os
from argparse import SUPPRESS, ArgumentParser
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...exceptions import LocalStorageMissing
from ...reporting.reasons import one_line
from ..terminal import Terminal, printable
from ..verbs import VERBS, Verb
from ..verbs.base import require_ledger
from ..verbs.typos import with_suggestion


class Command(BaseCommand):
    help = "Inspect and manage transfers to remote storage."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Make the parser, whose errors quote arguments that a script may have from anywhere."""
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        _complain_in_one_line(parser)
        return parser

    def add_arguments(self, parser: ArgumentParser) -> None:
        subparsers = parser.add_subparsers(dest="verb", required=True, metavar="subcommand")
        for verb in VERBS:
            subparser = subparsers.add_parser(verb.name, help=verb.help, description=verb.help)
            verb.add_arguments(subparser)
            _accept_options_of_django(subparser)
            _complain_in_one_line(subparser)
            subparser.set_defaults(verb_class=verb)

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Do so without colors if the environment asks for that; see https://no-color.org."""
        if os.environ.get("NO_COLOR") and not options["force_color"]:
            options["no_color"] = True
        return super().execute(*args, **options)

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
        finally:
            streams[0].flush()


def _complain_in_one_line(parser: ArgumentParser) -> None:
    """Let errors quote arguments that a script may have from anywhere, and say what is meant."""
    complain = parser.error
    # An assignment to a method is an error of types.
    setattr(parser, "error", lambda text: complain(one_line(with_suggestion(text))))  # noqa: B010


def _accept_options_of_django(parser: ArgumentParser) -> None:
    """Take the options of all Django commands behind the verb, too."""
    hidden: dict[str, Any] = {"default": SUPPRESS, "help": SUPPRESS}
    for name in ("--traceback", "--no-color", "--force-color", "--skip-checks"):
        parser.add_argument(name, action="store_true", **hidden)
    for name in ("--settings", "--pythonpath"):
        parser.add_argument(name, **hidden)
    parser.add_argument("-v", "--verbosity", type=int, choices=range(4), **hidden)
