"""Which options the backends of django-storages have, read from their source.

Importing some of them takes seconds, which every command of the project would wait for.
"""

import ast
import difflib
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent

OPTIONS_OF = "get_default_settings"  # returns a dictionary with all of them
# Its lines: parsing the whole module would take most of the time of all checks.
_METHOD = re.compile(rf"^( *)def {OPTIONS_OF}\(.*\n(?:\1[ )].*\n|[ \t]*\n)*", re.MULTILINE)


def unknown_options(path: str, options: Mapping[str, object]) -> list[str]:
    """Return those of the options that a backend with this dotted path does not seem to have."""
    known = _known_options(path.rpartition(".")[0])
    return [name for name in options if name not in known] if known else []


def nearest_option(path: str, name: str) -> str:
    """Return the option that is most like an unknown one; "" if none is."""
    known = sorted(_known_options(path.rpartition(".")[0]))
    return next(iter(difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)), "")


@lru_cache
def _known_options(module: str) -> frozenset[str]:
    spec = find_spec(module)
    if spec is None or not spec.origin:
        return frozenset()
    source = Path(spec.origin).read_text(encoding="utf-8")
    methods = (ast.parse(dedent(found[0])) for found in _METHOD.finditer(source))
    keys = (
        key.value
        for method in methods
        for node in ast.walk(method)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant)
    )
    return frozenset(key for key in keys if isinstance(key, str))
