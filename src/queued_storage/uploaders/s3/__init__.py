"""The uploaders for django-storages' ``S3Storage``."""

from .uploader import PlainS3Uploader, S3Uploader

__all__ = ["PlainS3Uploader", "S3Uploader"]
