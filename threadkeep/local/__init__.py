"""The embedded stack: Valkey, PostgreSQL, an S3 server and Celery on one machine, from pinned wheels."""
