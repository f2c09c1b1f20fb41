"""A directory that the operating system refuses to look at, for any user and any reason."""

import builtins
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

CALLS = {os: ("lstat", "stat", "scandir", "listdir", "remove", "unlink", "rename", "link")}
CALLS |= {builtins: ("open",)}


@contextmanager
def refusing(directory: str | Path, error_number: int, *, only: str = "") -> Iterator[None]:
    """Let all calls for paths in a directory, or those of one function, fail with this error."""
    root = f"{os.path.realpath(directory)}{os.sep}"

    def refuse(call: Callable[..., Any]) -> Callable[..., Any]:
        def refused(path: Any = ".", *args: Any, **kwargs: Any) -> Any:
            if isinstance(path, str | Path) and f"{os.path.abspath(path)}{os.sep}".startswith(root):
                raise OSError(error_number, os.strerror(error_number), str(path))
            return call(path, *args, **kwargs)

        return refused

    with _patched(refuse, only):
        yield


@contextmanager
def _patched(refuse: Callable[..., Any], only: str) -> Iterator[None]:
    patches = [
        mock.patch.object(module, name, refuse(getattr(module, name)))
        for module, names in CALLS.items()
        for name in names
        if only in ("", name)
    ]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()
