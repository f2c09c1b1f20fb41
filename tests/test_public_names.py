"""Names that users import or use in settings are available under their documented paths."""

from importlib import import_module

import pytest

from queued_storage.tasks import Transfer, TransferAndDelete

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]

NAMES = {
    "queued_storage.backend": [
        "DelayedStorage",
        "DoubleFilesystemStorage",
        "QueuedRemoteStorage",
        "RemoteFileField",
        "S3Storage",
        "Transfer",
        "TransferAndDelete",
    ],
    "queued_storage.backends": [
        "QueuedCloudFilesStorage",
        "QueuedCouchDBStorage",
        "QueuedDatabaseStorage",
        "QueuedFTPStorage",
        "QueuedFileSystemStorage",
        "QueuedGridFSStorage",
        "QueuedMogileFSStorage",
        "QueuedS3BotoStorage",
        "QueuedS3Storage",
        "QueuedSFTPStorage",
        "QueuedStorage",
    ],
    "queued_storage.conf": ["settings"],
    "queued_storage.exceptions": [
        "FileElsewhere",
        "InvalidName",
        "InvalidQueue",
        "InvalidResult",
        "LeaseLost",
        "LocalFileChanged",
        "LocalFileMissing",
        "MissingLibrary",
        "NameUnavailable",
        "NotPublished",
        "QueuedStorageError",
        "TimeLimitReached",
        "TransferError",
        "TransferTimeout",
        "UnknownAlias",
        "VerificationError",
    ],
    "queued_storage.fields": [
        "QueuedFieldFile",
        "QueuedFileField",
        "QueuedImageField",
        "QueuedImageFieldFile",
    ],
    "queued_storage.health": ["Health", "Limits", "check", "health"],
    "queued_storage.health_check": ["QueuedFiles"],
    "queued_storage.maintenance": ["sweep"],
    "queued_storage.metrics": ["install", "scraped_registry", "serve", "view"],
    "queued_storage.models": ["Job", "QueuedFile", "ledger"],
    "queued_storage.prefetch": ["prefetch_urls"],
    "queued_storage.queues": ["BaseQueue", "get_queue"],
    "queued_storage.queues.base": ["BaseQueue", "run_all"],
    "queued_storage.queues.celery": ["CeleryQueue"],
    "queued_storage.queues.django_q": ["DjangoQQueue"],
    "queued_storage.queues.django_tasks": ["DjangoTasksQueue"],
    "queued_storage.queues.dramatiq": ["DramatiqQueue"],
    "queued_storage.queues.dummy": ["DummyQueue"],
    "queued_storage.queues.huey": ["HueyQueue"],
    "queued_storage.queues.immediate": ["ImmediateQueue"],
    "queued_storage.queues.procrastinate": ["ProcrastinateQueue"],
    "queued_storage.queues.rq": ["RQQueue"],
    "queued_storage.queues.threads": ["ThreadQueue"],
    "queued_storage.queues.worker": ["WorkerQueue"],
    "queued_storage.signals": [
        "file_deleted",
        "file_evicted",
        "file_rejected",
        "file_transferred",
        "transfer_failed",
    ],
    "queued_storage.steps": ["LATER", "Outcome", "PASS", "REJECT", "REPLACE", "Step", "StepFile"],
    "queued_storage.steps.clamav": ["ClamAV"],
    "queued_storage.steps.images": ["CleanImage"],
    "queued_storage.steps.types": ["MatchType"],
    "queued_storage.tasks": ["Transfer", "TransferAndDelete"],
    "queued_storage.testing": [
        "Fault",
        "FaultyStorage",
        "QueueContract",
        "QueuedStorageRunnerMixin",
        "RemoteContract",
        "drain",
        "stop_threads",
    ],
    "queued_storage.tracing": ["instrument", "uninstrument"],
    "queued_storage.uploaders.base": ["Uploader"],
    "queued_storage.uploaders.ftp": ["FTPUploader"],
    "queued_storage.uploaders.generic": ["GenericUploader"],
    "queued_storage.uploaders.s3": ["PlainS3Uploader", "S3Uploader"],
    "queued_storage.urls": ["app_name", "urlpatterns"],
}


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in NAMES.items() for name in names]
)
def test_public_name_is_importable(module: str, name: str) -> None:
    assert hasattr(import_module(module), name)


@pytest.mark.parametrize("task", [Transfer, TransferAndDelete])
def test_rows_keep_the_public_path_of_a_task(task: type) -> None:
    assert task.__module__ == "queued_storage.tasks"
