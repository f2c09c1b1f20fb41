"""For any wing: forks, children, hangs and ends of a process; durations, sizes, rates, rules."""
