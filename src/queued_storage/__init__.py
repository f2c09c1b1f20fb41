"""A Django storage that answers at local speed and carries every file to remote storage."""

__version__ = "1.0.0.dev0"
