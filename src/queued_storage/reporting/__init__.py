"""What may be said of a file: log records, error texts without secrets, spans."""
