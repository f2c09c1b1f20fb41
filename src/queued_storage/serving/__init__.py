"""URLs at which the project itself serves files."""
