"""The channel between a process and a child of it, with which each notices the other's end.

The child is started anew, not forked, so that it doesn't inherit what libraries have in memory.
"""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

VARIABLE = "QUEUED_STORAGE_CHILD"  # in the environment of a child: its number and its socket
BEGUN = b"b"  # from the child: its start succeeded
STOP = b"s"  # from the parent
PATIENCE = 5.0  # seconds that a word of a child which has ended may take


class Child:
    """A child, as its parent sees it."""

    def __init__(self, number: int, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.number = number
        self.started_at = time.monotonic()
        self._channel, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    command,
                    env={**environment, VARIABLE: f"{number}:{theirs.fileno()}"},
                    pass_fds=[theirs.fileno()],
                )
            except BaseException:
                self._channel.close()
                raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs, negative if a signal ended it."""
        return self._process.returncode

    def watch(self, on_begin: Callable[[], object], on_end: Callable[[], object]) -> None:
        """Call ``on_begin``, if it begins, and then ``on_end``, in other threads."""

        def await_begin() -> None:
            with suppress(OSError):
                if self._channel.recv(1) == BEGUN:
                    on_begin()

        def await_end() -> None:
            self._process.wait()
            # If a process that the child forked holds the channel, there is no end of it.
            beginning.join(PATIENCE)
            on_end()

        name = f"queued-storage-child-{self.number}"
        beginning = threading.Thread(target=await_begin, name=name, daemon=True)
        beginning.start()
        threading.Thread(target=await_end, name=name, daemon=True).start()

    def ask_to_stop(self) -> None:
        with suppress(OSError):  # it has ended
            self._channel.send(STOP)

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """Close the channel. A child that lives notices that."""
        self._channel.close()


class Parent:
    """The parent of this process, as its child sees it.

    The child has its end of the channel, the number of an open file, for as long as it lives.
    """

    def __init__(self, number: int, channel: int) -> None:
        self.number = number  # of the child
        self._channel = channel

    @classmethod
    def of_this_process(cls) -> "Parent | None":
        """Return the parent, the first time; None if another program started this process."""
        number, colon, file = os.environ.pop(VARIABLE, "").partition(":")
        if not colon:
            return None
        os.set_inheritable(int(file), False)
        return cls(int(number), int(file))

    def tell_begun(self) -> None:
        with suppress(OSError):  # it has ended
            os.write(self._channel, BEGUN)

    def watch(self, on_stop: Callable[[bool], object]) -> None:
        """Call ``on_stop`` in another thread when this process is to stop.

        The argument is whether the parent has ended without a word.
        """

        def wait() -> None:
            word = b""
            with suppress(OSError):
                word = os.read(self._channel, 1)
            on_stop(word != STOP)

        threading.Thread(target=wait, name="queued-storage-parent", daemon=True).start()
