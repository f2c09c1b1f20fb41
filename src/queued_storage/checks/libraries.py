"""Which options the backends of django-storages have, read from their source.

Importing some of them takes seconds, which every command of the project would wait for.
"""

import ast
import difflib
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

OPTIONS_OF = "get_default_settings"  # returns a dictionary with all of them


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
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    methods = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == OPTIONS_OF
    ]
    keys = (
        key.value
        for method in methods
        for node in ast.walk(method)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant)
    )
    return frozenset(key for key in keys if isinstance(key, str))
