"""File objects: measured as they are read, written whole or not at all, cached."""
