"""numpy, where it is installed: for work on many rows at once.

It is optional (the extra `fast`) and slow to import, longer than a whole start of the broker without it. So it is loaded in a
thread, once there is work for it; whoever uses it has another way to the same result.
"""

from __future__ import annotations

from types import ModuleType


def load_numpy() -> ModuleType | None:
    """Import numpy and return it; None where it is not installed. Blocks the first time."""
    try:
        import numpy
    except ImportError:
        return None
    return numpy
