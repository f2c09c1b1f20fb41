"""Runs packages' own tests twice, with a plain and with a queued storage as the default storage.

``python -m tests.ecosystem.suites [NAME ...]`` takes the source distributions of the versions that
are installed from the package index, and prints a table. It fails if the tests differ in another
way than ``expected.py`` says, or if the documentation has other numbers. Everything is below
build/suites.
"""

import sys
from importlib import metadata

import django

from .expected import unexpected
from .packages import SUITES
from .running import PASSED, ROOT, outcomes

PAGE = ROOT / "docs" / "packages.md"
HEADING = (
    "| package | Django | tests | pass with `FileSystemStorage` | pass with `QueuedStorage` "
    "| different |",
    "|---|---|---|---|---|---|",
)


def compare(name: str) -> list[str]:
    """Print the row of a package; return what is wrong with it."""
    plain, queued = (outcomes(name, storage) for storage in ("plain", "queued"))
    passed = [sum(word == PASSED for word in each.values()) for each in (plain, queued)]
    different = {test for test in plain | queued if plain.get(test) != queued.get(test)}
    line = ".".join(map(str, django.VERSION[:2]))
    version = metadata.version(name)
    row = f"| {name} {version} | {line} | {len(plain)} | {passed[0]} | {passed[1]} "
    row += f"| {len(different)} |"
    print(row, flush=True)
    wrong = unexpected(name, line, different)
    if row not in PAGE.read_text().splitlines():
        wrong.append(f"docs/{PAGE.name} does not have this row of {name}.")
    return wrong


def main(names: list[str]) -> int:
    print(*HEADING, sep="\n")
    wrong = [each for name in names or SUITES for each in compare(name)]
    for each in wrong:
        print(each, file=sys.stderr)
    return bool(wrong)


sys.exit(main(sys.argv[1:]))
