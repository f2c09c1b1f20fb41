"""What a worker does with one file under a lease."""
