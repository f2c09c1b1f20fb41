"""The packages whose own tests are run, and what these tests need."""

from typing import NamedTuple


class Suite(NamedTuple):
    settings: str  # of the package's tests; empty if they call settings.configure()
    tests: str
    picture: str = ""  # that the distribution lacks
    path: str = ""  # another directory of the distribution for the path
    package: str = ""  # a directory that must be a package, or another one is imported


SUITES = {
    "Django": Suite(
        "files_of_django",
        "tests/file_storage tests/file_uploads "
        "tests/model_fields/test_filefield.py tests/model_fields/test_imagefield.py",
        path="tests",
    ),
    "django-imagekit": Suite("tests.settings", "tests", picture="tests/media/reference.png"),
    "easy-thumbnails": Suite("files_of_easy_thumbnails", "easy_thumbnails/tests"),
    "sorl-thumbnail": Suite("files_of_sorl_thumbnail", "tests"),
    "djangorestframework": Suite("", "tests"),
    "django-import-export": Suite("settings", "tests/core", path="tests", package="tests"),
    "django-private-storage": Suite("files_of_private_storage", "private_storage/tests"),
    "wagtail": Suite("wagtail.test.settings", "wagtail/images/tests wagtail/documents/tests"),
}
