"""The timer wheel: messages that are delivered at any time, to the second."""
