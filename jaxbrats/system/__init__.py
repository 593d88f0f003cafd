"""The ground: errors, files, locks, processes, signals, memory, compiled programs, runs of several processes."""
