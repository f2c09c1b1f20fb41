"""Further copies of files, at other places than their rows say."""

import copy as shallow
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Self

from django.db import models
from django.db.models import Case, F, Q, When
from django.utils.translation import gettext_lazy as _

from ..conf import settings
from .database import ledger, ledger_database
from .models import QueuedFile
from .rows import LEASE_GRACE, is_unclaimed, new_token, unlocked_in
from .sql.clock import DatabaseNow, UTCDateTimeField, seconds_from_now
from .sql.outages import outlast
from .states import Claim, Sending, State


class CopyState(models.TextChoices):
    PENDING = "pending", _("pending")  # to be made at due_at; an upload of it may have begun
    TRANSFERRED = "transferred", _("transferred")  # verified
    FAILED = "failed", _("failed")  # retries used up
    REMOVING = "removing", _("removing")  # of no use; its object is to be removed at due_at


class Copy(models.Model):
    """A copy of a file at another place than ``QueuedFile.place``, which has the first copy.

    A copy that a file is moved to is made under the claim on its row. A copy on a mirror is made,
    and a copy of no use is removed, under a claim of its own, or it is removed with the file.
    """

    State = CopyState

    # A process of an earlier version, which knows no copies, cannot delete the row of a file that
    # has some.
    file = models.ForeignKey(
        QueuedFile, models.DO_NOTHING, related_name="copies", verbose_name=_("file")
    )
    place = models.BigIntegerField(_("place"))  # the digest
    remote_name = models.CharField(_("name on the remote"), max_length=1024, blank=True)
    unconfirmed = models.CharField(_("unconfirmed upload"), max_length=150, blank=True)
    state = models.CharField(
        _("state"), max_length=16, choices=CopyState, default=CopyState.PENDING
    )
    # Of the file's content that the copy has, or is to get. Readers need the present one.
    generation = models.PositiveIntegerField(_("generation"), default=0)
    verified = models.CharField(_("verified by"), max_length=16, blank=True)
    is_kept = models.BooleanField(_("is kept"), default=False)  # by "move --drop-old"
    attempts = models.PositiveIntegerField(_("attempts"), default=0)
    due_at = UTCDateTimeField(_("due at"), null=True, blank=True)
    lease_token = models.CharField(_("lease"), max_length=32, blank=True)
    last_error = models.TextField(_("last error"), blank=True)

    class Meta:
        app_label = "queued_storage"
        verbose_name = _("copy")
        verbose_name_plural = _("copies")
        default_permissions = []  # the admin shows copies with their file
        constraints = [
            models.UniqueConstraint(fields=["file", "place"], name="queued_storage_copy_unique")
        ]
        indexes = [
            models.Index(fields=["due_at", "place"], name="queued_storage_copy_due"),
            models.Index(fields=["place", "state", "due_at"], name="queued_storage_copy_place"),
        ]

    def __str__(self) -> str:
        return f"{self.file} at {self.place}"

    @property
    def object_name(self) -> str:
        """The name under which the remote has the copy, or may have it; "" if it was never sent."""
        return self.remote_name or (str(self.file.name) if self.unconfirmed else "")


class Copies(models.QuerySet[Copy]):
    """The verbs of copies; like those of the ledger, each is one conditional statement."""

    # Filters

    def of(self, row: QueuedFile) -> Self:
        return self.filter(file=row.pk)

    def at(self, row: QueuedFile, place: int) -> Self:
        return self.filter(file=row.pk, place=place)

    def under_claim(self, row: QueuedFile) -> Self:
        """Those of the file of a claim, if the claim is valid and nobody removes them."""
        valid = ledger().using(self.db).under_claim(Claim.of(row)).values("pk")
        return self.filter(file__in=valid, lease_token="")

    def with_object(self, names: Collection[str]) -> list[Copy]:
        """Copies whose object has one of these names, or may have it; see ``Rows``."""
        may_have = Q(file__name__in=names, remote_name="") & ~Q(unconfirmed="")
        found = self.filter(Q(remote_name__in=names) | may_have).select_related("file")
        return [copy for copy in found if copy.object_name in names]  # MySQL ignores case

    # Verbs

    def begin(
        self, rows: Collection[QueuedFile], place: int, trying: Collection[int]
    ) -> dict[int, Copy]:
        """Return the copies of claimed files at a place, by the keys of the files.

        Those that are new are pending. New ones of the files ``trying`` are also reserved under the
        files' own names, as ``reserve()`` does it.
        """
        new = []
        for row in rows:
            copy: Any = Copy(file_id=row.pk, place=place, generation=row.generation)
            if row.pk in trying:
                copy.remote_name, copy.unconfirmed = row.name, str(Sending.of(row))
            new.append(copy)
        self._add(new)
        found = self.filter(file__in=[row.pk for row in rows], place=place)
        return {copy.file_id: copy for copy in found}

    def reserve(self, row: QueuedFile, place: int, remote_name: str) -> int:
        """Record the name of a copy, and that it may be there, right before it is sent."""
        return self._change(
            row,
            place,
            state=CopyState.PENDING,
            generation=row.generation,
            remote_name=remote_name,
            unconfirmed=str(Sending.of(row)),
        )

    def record(self, row: QueuedFile, place: int, remote_name: str) -> int:
        """Record where a copy was sent, even if the file was changed since."""
        return self.at(row, place).update(remote_name=remote_name, unconfirmed="")

    def disown(self, row: QueuedFile, place: int) -> int:
        """Record that nothing was sent, or that the object is not this file's."""
        return self.at(row, place).update(remote_name="", unconfirmed="")

    def disown_all(self, rows: Collection[QueuedFile], place: int) -> int:
        """Do the same for several files of one claim, as far as the claim has sent nothing."""
        tried = [str(Sending.of(row)) for row in rows]
        its = self.filter(file__in=[row.pk for row in rows], place=place, unconfirmed__in=tried)
        return its.update(remote_name="", unconfirmed="")

    def _change(self, row: QueuedFile, place: int, **columns: Any) -> int:
        return self.under_claim(row).filter(place=place).update(due_at=None, **columns)

    # Mirrors

    def want(self, row: QueuedFile, places: Collection[int]) -> None:
        """Let the copies of a claimed file at these places be made again, and made if there are
        none.

        A copy under a claim is due at its end. The object of a copy is overwritten in place.
        """
        self._add([self._new(row, place) for place in places])
        stale = ~Q(state=CopyState.PENDING, generation=row.generation)
        valid = ledger().using(self.db).under_claim(Claim.of(row)).values("pk")
        self.filter(stale, file__in=valid, place__in=places).update(
            due_at=Case(When(is_unclaimed(), then=DatabaseNow()), default=F("due_at")),
            state=CopyState.PENDING,
            generation=row.generation,
            attempts=0,
            verified="",
            is_kept=False,
            last_error="",
        )

    @staticmethod
    def _new(row: QueuedFile, place: int) -> Any:
        return Copy(file=row, place=place, generation=row.generation, due_at=DatabaseNow())

    def _add(self, new: list[Any]) -> None:
        self.bulk_create(new, ignore_conflicts=True)

    def add(self, rows: Sequence[QueuedFile], place: int) -> None:
        """Let copies of transferred files be made at a place where they have none."""
        self._add([self._new(row, place) for row in rows])

    def stale(self) -> Self:
        """Those of content that is not the present one, although nothing is going to change
        that: the process that uploaded it knew no mirrors."""
        done = self.filter(state__in=[CopyState.TRANSFERRED, CopyState.FAILED])
        return done.filter(file__state=State.TRANSFERRED).exclude(generation=F("file__generation"))

    def make_again(self) -> int:
        """Let these be made again, from the start."""
        return self.filter(lease_token="").update(
            state=CopyState.PENDING, due_at=DatabaseNow(), attempts=0, verified=""
        )

    def verified_of(self, pk: int, generation: int) -> Self:
        """The copies that readers of a file's present content may use."""
        return self.filter(file=pk, generation=generation, state=CopyState.TRANSFERRED)

    def verified_named(self, alias: str, names: Collection[str]) -> Self:
        """Do the same for the files of these names."""
        its = self.filter(file__alias=alias, file__name__in=names, file__state=State.TRANSFERRED)
        return its.filter(generation=F("file__generation"), state=CopyState.TRANSFERRED)

    def to_make(self) -> Self:
        """Those that are to be made now, of files whose first copy is there."""
        due = self.filter(state=CopyState.PENDING, due_at__lte=DatabaseNow())
        return due.filter(file__state=State.TRANSFERRED)

    def claim_to_make(self, copy: Copy) -> Copy | None:
        """Claim a copy to make it; None if another process did, or if it is not due."""
        token = new_token()
        due = self.filter(pk=copy.pk, state=CopyState.PENDING, due_at__lte=DatabaseNow())
        if not due.update(
            lease_token=token,
            due_at=seconds_from_now(settings.lease),
            attempts=F("attempts") + 1,
        ):
            return None
        return self.select_related("file").filter(pk=copy.pk, lease_token=token).first()

    def claim_to_purge(self, copy: Copy) -> int:
        """Claim a copy of a deleted file, unless another worker may still be writing to it."""
        copy.lease_token = new_token()
        over = Q(lease_token="") | Q(due_at__lte=seconds_from_now(-LEASE_GRACE))
        return self.filter(over, pk=copy.pk).update(
            lease_token=copy.lease_token, due_at=seconds_from_now(settings.lease)
        )

    def release(self, copy: Copy) -> int:
        """End a claim on a copy without changing it, so that it can be claimed again."""
        return self._claimed(copy).update(lease_token="", due_at=DatabaseNow())

    def retriable(self) -> Self:
        """Those that failed, or that wait for their next attempt."""
        return self.filter(Q(state=CopyState.FAILED) | Q(state=CopyState.PENDING, lease_token=""))

    def retry(self) -> int:
        """Make failed and waiting copies due now, with all their retries."""
        return self.retriable().update(state=CopyState.PENDING, due_at=DatabaseNow(), attempts=0)

    # Removal

    def places(self) -> Iterator[int]:
        """Yield every place that has copies, with one index lookup for each."""
        places = self.order_by("place").values_list("place", flat=True)
        place = places.first()
        while place is not None:
            yield place
            place = places.filter(place__gt=place).first()

    def removable(self) -> Self:
        """Those that are to be removed now."""
        return self.filter(state=CopyState.REMOVING, due_at__lte=DatabaseNow())

    def claim(self, copy: Copy) -> Copy | None:
        """Claim a copy for its removal; None if another process did, or if it is not due."""
        token = new_token()
        due = self.filter(pk=copy.pk).removable()
        if not due.update(lease_token=token, due_at=seconds_from_now(settings.lease)):
            return None
        return self.select_related("file").filter(pk=copy.pk, lease_token=token).first()

    def claim_all(self, pks: Collection[int]) -> list[Copy]:
        """Do the same for several copies under one lease, past those that somebody has locked."""
        token, due = new_token(), self.filter(pk__in=pks).removable()

        def claim() -> int:
            with ledger().using(self.db).locking():
                unlocked = self.filter(pk__in=list(unlocked_in(due.values_list("pk", flat=True))))
                return unlocked.removable().update(
                    lease_token=token, due_at=seconds_from_now(settings.lease)
                )

        outlast(claim, self.db)
        return self._under(token, pks)

    def claim_old(self, rows: Collection[QueuedFile], pks: Collection[int]) -> list[Copy]:
        """Let these copies of claimed files be removed by this process, and claim them for that.

        Left out are those of files whose claims are void, and those that another process makes.
        """
        claims = defaultdict(list)
        for row in rows:
            claims[row.lease_token, row.generation, row.place].append(row.pk)
        claimed: list[Copy] = []
        for (token, generation, place), files in claims.items():
            own, valid = (
                new_token(),
                ledger()
                .using(self.db)
                .filter(
                    pk__in=files,
                    lease_token=token,
                    generation=generation,
                    state=State.TRANSFERRED,
                    place=place,
                ),
            )
            self.filter(
                pk__in=pks,
                file__in=valid.values("pk"),
                state__in=[CopyState.TRANSFERRED, CopyState.PENDING],
                lease_token="",
                is_kept=False,
            ).exclude(place=place).update(
                state=CopyState.REMOVING,
                lease_token=own,
                due_at=seconds_from_now(settings.lease),
            )
            claimed += self._under(own, pks)
        return claimed

    def _under(self, token: str, pks: Collection[int]) -> list[Copy]:
        found = self.select_related("file").filter(pk__in=pks, lease_token=token)
        return list(found.order_by("due_at", "pk"))

    def confirm_removal(self, copy: Copy) -> int:
        """Renew the claim on a copy, unless it is void; so it is if the file's first copy is at its
        place, as an operator may have declared."""
        is_first = ledger().using(self.db).filter(pk=copy.file_id, place=copy.place)
        its = self._claimed(copy).exclude(file__in=is_first.values("pk"))
        return its.update(due_at=seconds_from_now(settings.lease))

    def postpone(self, copy: Copy, delay: float, error: str) -> int:
        """End a claim until the next attempt in ``delay`` seconds."""
        return self._claimed(copy).update(
            due_at=seconds_from_now(delay),
            lease_token="",
            attempts=models.F("attempts") + 1,
            last_error=error,
        )

    def drop(self, copy: Copy) -> int:
        """Forget a copy whose object is gone; if a mirror wants it meanwhile, it is due again."""
        useless = self._claimed(copy).filter(state=CopyState.REMOVING)
        if dropped := outlast(lambda: useless.delete()[0], self.db):
            return dropped
        return self._claimed(copy).update(
            lease_token="", due_at=DatabaseNow(), remote_name="", unconfirmed=""
        )

    def drop_all(self, found: Collection[Copy]) -> set[int]:
        """Do the same for several copies; return the keys of those whose claims are void."""
        for token, pks in _by_token(found).items():
            useless = self.filter(pk__in=pks, lease_token=token, state=CopyState.REMOVING)
            outlast(useless.delete, self.db)
        left = set(self.filter(pk__in=[copy.pk for copy in found]).values_list("pk", flat=True))
        return {copy.pk for copy in found if copy.pk in left and not self.drop(copy)}

    def release_all(self, found: Collection[Copy]) -> None:
        """End claims on copies whose removal has not begun."""
        for token, pks in _by_token(found).items():
            self.filter(pk__in=pks, lease_token=token).update(lease_token="", due_at=DatabaseNow())

    def _claimed(self, copy: Copy) -> Self:
        return self.filter(pk=copy.pk, lease_token=copy.lease_token)

    def discard(self) -> int:
        """Let these be removed."""
        wanted = self.exclude(state=CopyState.REMOVING)
        return wanted.update(state=CopyState.REMOVING, due_at=DatabaseNow(), is_kept=False)

    def update(self, **columns: Any) -> int:
        """Do the same as Django's method, despite a short outage of the database."""
        return outlast(lambda: super(Copies, self).update(**columns), self.db)

    update.alters_data = True  # type: ignore[attr-defined]  # templates must not call it


def _by_token(found: Collection[Copy]) -> dict[str, list[int]]:
    tokens = defaultdict(list)
    for copy in found:
        tokens[copy.lease_token].append(copy.pk)
    return tokens


def copies() -> Copies:
    """All copies that the ledger knows."""
    return Copies(Copy, using=ledger_database())


def at_copy(row: QueuedFile, copy: Copy) -> QueuedFile:
    """Return the row as if a further copy were its first one."""
    other = shallow.copy(row)
    other.place = copy.place
    other.remote_name = copy.remote_name
    other.unconfirmed = copy.unconfirmed
    return other


def claimed_row(copy: Copy) -> QueuedFile:
    """Return the row of a claimed copy as if the copy, with its claim, were the first one."""
    other = at_copy(copy.file, copy)
    other.lease_token = copy.lease_token
    return other
