"""Raft for controllers: one of them leads, and what more than half have on disk is never lost."""
