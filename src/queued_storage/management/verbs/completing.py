"""``completion``: a script with which a shell completes the command."""

from argparse import ArgumentParser
from collections.abc import Iterable
from typing import Any, ClassVar

from ...ledger.aliases import known_storages
from .base import Verb
from .grammar import grammars
from .scripts import SCRIPTS


class Completion(Verb):
    name = "completion"
    help = "print a script with which a shell completes this command"
    needs_ledger = False
    completes: ClassVar[Iterable[type[Verb]]]  # all verbs, this one included

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument("shell", choices=sorted(SCRIPTS), help="the shell")

    def run(self, options: dict[str, Any]) -> None:
        aliases = sorted(storage.alias for storage in known_storages())
        for line in SCRIPTS[options["shell"]](grammars(self.completes, aliases)):
            self.stdout.write(line)
