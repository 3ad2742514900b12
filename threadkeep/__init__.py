"""Keeps AI-agent conversations: hot in Redis while in use, cold in S3 when idle, with Postgres knowing which is which."""
