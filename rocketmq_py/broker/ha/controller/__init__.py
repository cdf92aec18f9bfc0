"""Controller mode of a broker: who tells it what it is, and how it becomes that."""
