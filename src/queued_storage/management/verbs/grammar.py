"""What can follow each verb on the command line, for the completion of shells."""

import re
from argparse import SUPPRESS, Action, ArgumentParser
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .base import Verb

# Others would have to be quoted, in a different way for each shell.
PLAIN = re.compile(r"[\w.@%+-]+", re.ASCII)


@dataclass
class Option:
    """An option of a verb."""

    names: list[str]  # its spellings
    help: str
    takes_value: bool
    values: list[str]  # as far as they are known


@dataclass
class Grammar:
    """What can follow a verb."""

    verb: str
    help: str
    options: list[Option] = field(default_factory=list)
    words: list[str] = field(default_factory=list)  # the known values of its arguments


def grammars(verbs: Iterable[type[Verb]], aliases: Iterable[str]) -> list[Grammar]:
    """The grammar of each verb; the aliases are those of the storages."""
    plain = [alias for alias in aliases if PLAIN.fullmatch(alias)]
    return [_grammar(verb, plain) for verb in verbs]


def _grammar(verb: type[Verb], aliases: list[str]) -> Grammar:
    parser = _Recorder()
    verb.add_arguments(parser)
    grammar = Grammar(verb.name, verb.help)
    for action in parser.recorded:
        is_alias = action.dest == "alias" or action.metavar == "ALIAS"
        values = aliases if is_alias else list(map(str, action.choices or []))
        if action.option_strings:
            names = list(action.option_strings)
            grammar.options.append(Option(names, _help_of(action), action.nargs != 0, values))
        else:
            grammar.words += values
    return grammar


class _Recorder(ArgumentParser):
    """Remembers its arguments, which argparse only tells when they are added."""

    def __init__(self) -> None:
        self.recorded: list[Action] = []
        super().__init__(add_help=False)

    def add_argument(self, *args: Any, **options: Any) -> Action:
        action = super().add_argument(*args, **options)
        self.recorded.append(action)
        return action

    def add_mutually_exclusive_group(self, **options: Any) -> Any:
        return self


def _help_of(action: Action) -> str:
    text = "" if action.help in (None, SUPPRESS) else str(action.help)
    return text.replace("%%", "%")
