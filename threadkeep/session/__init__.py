"""Sessions: what an app uses to open, write, fork and read threads."""
