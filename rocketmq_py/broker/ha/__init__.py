"""High availability: what a broker is to its group, and what changes when that changes."""
