"""Threadkeep measured: against the algorithm that it grew from, against other packages, and against its targets."""
