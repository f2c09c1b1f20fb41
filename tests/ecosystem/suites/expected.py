"""The tests that end differently with a queued storage, by the reason."""
from fnmatch import fnmatchcase

INSTANCE = "requires that the storage is an instance of FileSystemStorage, or of that class"
EXPECTED: dict[str, dict[str, list[str]]] = {}


def unexpected(name: str, line: str, different: set[str]) -> list[str]:
    wrong = []
    patterns = [pattern for each in EXPECTED.get(name, {}).values() for pattern in each]
    found = {pattern: set(filter(lambda t, p=pattern: fnmatchcase(t, p), different)) for pattern in patterns}
    wrong += [f"{pattern} is expected" for pattern, tests in found.items() if not tests]
    return wrong + [f"{test} differs" for test in sorted(different - set().union(*found.values()))]
