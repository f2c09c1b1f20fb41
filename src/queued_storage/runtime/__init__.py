"""What any wing may use: forks, hangs and ends of a process; durations, sizes, rates, rules."""
