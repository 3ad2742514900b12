"""Contract suites and fault injection, for this package's own stores and for whoever writes another."""
