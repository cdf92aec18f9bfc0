"""Replication: how the bytes of a master's log get into the log of its slaves."""
