"""The storage that Django sees: its options, reading, saving."""
