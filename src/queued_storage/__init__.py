"""A Django storage backend that saves locally first and uploads every file in the background."""

__version__ = "1.0.0rc1"
