"""Replication with epochs: who wrote which part of the log, and where two logs part."""
