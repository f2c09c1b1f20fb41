"""The database's clock."""

from datetime import timedelta

import pytest
from django.test import override_settings
from django.utils import timezone

from queued_storage.ledger.database import ledger
from queued_storage.ledger.models import QueuedFile
from queued_storage.ledger.sql.clock import seconds_from_now
from tests.support.rows import new_row

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("use_tz", [True, False])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "America/St_Johns"])
def test_the_database_and_django_agree_on_times(use_tz: bool, zone: str) -> None:
    with override_settings(USE_TZ=use_tz, TIME_ZONE=zone):
        new_row()
        row = QueuedFile.objects.get()
        assert timezone.is_aware(row.saved_at) == use_tz
        assert abs(timezone.now() - row.saved_at) < timedelta(seconds=30)
        assert ledger().due().exists()
        ledger().update(due_at=seconds_from_now(10))
        assert not ledger().due().exists()
        ledger().update(due_at=seconds_from_now(-0.5))
        assert ledger().due().exists()
