"""What keeps a process safe when it forks, hangs or ends."""
