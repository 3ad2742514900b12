-- The catalog is still to be told about the thread. Safe to repeat.
expect('')
owe()
