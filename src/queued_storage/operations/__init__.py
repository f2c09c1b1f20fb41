"""What an operator can do with many files; the command and the admin are its two doors."""
