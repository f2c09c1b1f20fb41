"""The tests that are known to end differently with a queued storage, by the reason."""

from fnmatch import fnmatchcase
from typing import NamedTuple


class Difference(NamedTuple):
    reason: str
    tests: tuple[str, ...]  # patterns
    django: str = ""  # the only version with these tests, if it is only one


_SAVES = "tests.file_storage.tests.Overwriting"

EXPECTED = {
    "Django": (
        Difference(
            "allow_overwrite of the local storage has no effect, as the check W002 says",
            (
                f"{_SAVES}StorageTests.test_save_overwrite_behavior*",
                f"{_SAVES}StorageTests.test_file_name_truncation",
            ),
        ),
        Difference(
            "get_available_name() and OS_OPEN_FLAGS of a subclass make it overwrite a file",
            (f"{_SAVES}StorageOSOpenFlags*",),
            django="5.2",
        ),
        Difference(
            "compares the default STORAGES, or the path of the class",
            (
                "tests.file_storage.tests.StorageHandlerTests.test_defaults",
                "tests.file_storage.tests.FileSystemStorageTests.test_deconstruction",
            ),
        ),
        Difference(
            "lists the directory on the disk, which has the marker .queued-storage",
            ("tests.file_storage.tests.FileSaveRaceConditionTest.test_race_condition",),
        ),
        Difference(
            "runs without queued_storage in INSTALLED_APPS",
            ("tests.file_storage.tests.FileLikeObjectTestCase.test_urllib_request_urlopen",),
        ),
    ),
    "django-imagekit": (
        Difference(
            "requires an instance of FileSystemStorage",
            ("tests.test_settings.test_get_storage_default",),
        ),
    ),
    "sorl-thumbnail": (
        Difference(
            "expects that save() calls exists() of the storage",
            ("*.AlternativeResolutionsTest.test_retina", "*.StorageTestCase.test_new"),
        ),
        Difference(
            "replaces a method of the class of FileSystemStorage",
            ("*.CommandTests.test_clear_delete_referenced_timeout_d*",),
        ),
        Difference(
            "expects that a closed file is opened again without its storage",
            ("*.SourceCacheTestCase.test_caller_handles_are_left_alone",),
        ),
    ),
    "django-import-export": (
        Difference(
            "replaces open() of FileSystemStorage",
            ("*.TempStoragesTest.test_media_storage_read_with_encoding",),
        ),
        Difference(
            "has a list of all classes of model fields, without those of this package",
            ("*.TestFieldWidgetMapping.test_all_db_fields_has_widgets",),
        ),
    ),
    "wagtail": (
        Difference(
            "counts queries, without those to the ledger",
            (
                "*.TestImageChooserView.test_list_mode",
                "*.TestImage*View.test_num_queries",
                "*.TestImageIndexView.test_order_by_usage_count",
                "*.TestPrefetchRenditions.test_prefetch_renditions_on_non_image_querysets",
                "*.TestRenditions.test_create_renditions",
                "*.TestRenditions.test_get_renditions_performance_*",
                "*.TestRenditions.test_prefetch*_found",
            ),
        ),
    ),
}


def unexpected(name: str, django: str, different: set[str]) -> list[str]:
    """Return the tests that are different and not expected to be, and the other way round."""
    unknown = set(different)
    wrong = []
    for each in EXPECTED.get(name, ()):
        if each.django not in ("", django):
            continue
        for pattern in each.tests:
            found = {test for test in different if fnmatchcase(test, pattern)}
            if not found:
                wrong.append(f"{name}: {pattern} is expected to be different: {each.reason}.")
            unknown -= found
    return wrong + [f"{name}: {test} is different." for test in sorted(unknown)]
