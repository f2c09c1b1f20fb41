"""What every adapter must do, and those of a broker while the broker is unavailable."""

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
from django.core.files.base import ContentFile
from django.db import transaction

from queued_storage.backends import QueuedStorage
from queued_storage.exceptions import NotPublished
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.maintenance import sweep
from queued_storage.models import QueuedFile
from queued_storage.queues import BaseQueue
from queued_storage.testing import QueueContract
from tests.support.fault_proxy import FaultProxy, Mode
from tests.support.scripted import file, on_disk, read, row
from tests.support.stepping import EICAR, Cleaning, Scanning, gated
from tests.support.waiting import SOON, until


class AdapterContract(QueueContract):
    """The contract, and that a message is enough for steps."""

    def test_steps_are_run_before_the_transfer(self) -> None:
        storage = gated(Cleaning(), Scanning(), queue=self.make_queue())
        storage.save("good.txt", file(b"dirty"))
        storage.save("bad.txt", file(b"dirty " + EICAR))
        self.run_workers()
        assert row(storage, "good.txt").state == State.TRANSFERRED
        assert read(storage, "good.txt") == b"clean"
        assert row(storage, "bad.txt").state == State.REJECTED
        with pytest.raises(NotPublished):
            storage.open("bad.txt")
        assert [name for name in on_disk() if not name.startswith(".")] == ["good.txt"]
        assert on_disk("far") == ["good.txt"]


@dataclass(frozen=True)
class Outage:
    """A queue, and how to make its broker unavailable.

    ``received`` returns the ids of each message that the broker has received.
    """

    queue: BaseQueue
    begin: Callable[[], object]
    end: Callable[[], object]
    received: Callable[[], list[list[int]]]


class BrokerProxy(FaultProxy):
    """A proxy in front of the broker at ``broker_url``."""

    def __init__(self, broker_url: str, mode: Mode) -> None:
        port = urlsplit(broker_url).port
        assert port
        super().__init__(port)
        self._broker_url = broker_url
        self._mode_of_outage = mode

    @property
    def url(self) -> str:
        return self._broker_url.replace(f":{self.target_port}", f":{self.port}")

    def outage(self, queue: BaseQueue, received: Callable[[], list[list[int]]]) -> Outage:
        """The outage of a queue that uses ``url``."""

        def set_mode(mode: Mode) -> None:
            self.mode = mode

        return Outage(
            queue,
            begin=lambda: set_mode(self._mode_of_outage),
            end=lambda: set_mode(Mode.OK),
            received=received,
        )


class BrokerContract:
    """Tests for any class of pytest that defines the first two fixtures."""

    # Loggers of the task queue that write lines of their own
    noisy: tuple[str, ...] = ()

    @pytest.fixture
    def dead_queue(self) -> BaseQueue:
        """A queue whose broker is unavailable."""
        raise NotImplementedError

    @pytest.fixture
    def outage(self) -> Outage:
        raise NotImplementedError

    @pytest.fixture(params=[Mode.HANG, Mode.REFUSE])
    def proxy(self, request: pytest.FixtureRequest, broker_url: str) -> Iterator[BrokerProxy]:
        with BrokerProxy(broker_url, request.param) as proxy:
            yield proxy

    # The contract

    def test_a_dead_broker_costs_a_second(
        self, dead_queue: BaseQueue, caplog: pytest.LogCaptureFixture
    ) -> None:
        storage = QueuedStorage("disk", "far", alias="dead-broker", queue=dead_queue)
        caplog.set_level("WARNING")
        for number in range(2):  # the second time with what the first has left behind
            caplog.clear()
            started = time.monotonic()
            with transaction.atomic():
                storage.save(f"{number}.txt", ContentFile(b"a"))
                storage.save(f"{number}.bin", ContentFile(b"b"))
            assert time.monotonic() - started < SOON
            (record,) = [each for each in caplog.records if not each.name.startswith(self.noisy)]
            name = type(dead_queue).__name__
            assert f"{name} could not be notified that 2 files are due" in record.getMessage()
        assert ledger().due().filter(state=State.PENDING).count() == 4

    def test_a_broker_that_returns_is_used(self, outage: Outage) -> None:
        alias = f"outage-{uuid.uuid4().hex}"
        storage = QueuedStorage("disk", "far", alias=alias, queue=outage.queue)
        outage.queue.enqueue([0])  # opens a connection
        outage.begin()
        started = time.monotonic()
        storage.save("a.txt", ContentFile(b"a"))
        assert time.monotonic() - started < SOON
        outage.end()
        assert sweep(alias) == 1
        pk = QueuedFile.objects.get().pk
        until(lambda: [pk] in outage.received())
