"""The three stores and the archive format: the only rooms that know Redis, S3 and SQL."""
