"""Dispatch: what happens to records that became visible.

    columns -> prepare (every dispatcher, in order) -> apply (every dispatcher, in order) -> arrivals (every listener)

`prepare` fills in what later units carry, `apply` writes queues and index, and only then is anybody told: who is woken
by an arrival finds the message. A dispatcher must be able to see the same record twice, because recovery reads from the
log again what may have been dispatched before.

Source: `CommitLogDispatcher`, `MessageArrivingListener`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from rocketmq_py.store.columns import Arrivals, Columns

logger = logging.getLogger(__name__)


class Dispatcher(Protocol):
    """Derives something from records. Called on the event loop; must not block."""

    @property
    def name(self) -> str:
        """For listings and logs."""
        ...

    def prepare(self, columns: Columns) -> None:
        """Look at the records before anything is written; `columns.tags_codes` may be changed in place."""
        ...

    def apply(self, columns: Columns) -> None:
        """Write what is derived. `columns.arrivals` has the records by queue."""
        ...


class ArrivalListener(Protocol):
    """Waits for messages. Called on the event loop; must not block."""

    def arrived(self, arrivals: Arrivals) -> None:
        """These messages of one queue can be read now."""
        ...

    def wake_all(self) -> None:
        """Look again at everything, such as after a change of the broker's role."""
        ...


class Dispatchers:
    """The installed dispatchers and listeners, in the order of installation (see `add` for the exception).

    Attributes:
        listeners: who is told of arrivals.
        failures: how often a dispatcher or listener raised.
    """

    def __init__(self) -> None:
        self.listeners: list[ArrivalListener] = []
        self.failures = 0
        self._dispatchers: list[Dispatcher] = []

    @property
    def dispatchers(self) -> tuple[Dispatcher, ...]:
        """The dispatchers in order."""
        return tuple(self._dispatchers)

    def add(self, dispatcher: Dispatcher, *, first: bool = False) -> None:
        """Append a dispatcher, or put it in front: what `prepare` fills in is seen by those behind.

        Raises:
            ValueError: one of that name is there.
        """
        if any(dispatcher.name == other.name for other in self._dispatchers):
            raise ValueError(f"dispatcher {dispatcher.name!r} is added twice")
        self._dispatchers.insert(0 if first else len(self._dispatchers), dispatcher)

    def dispatch(self, columns: Columns, *, quietly: bool = False) -> None:
        """Run all dispatchers over the records, then tell the listeners (not so with `quietly`, as in recovery).

        Nothing awaits in between, so no reader sees a queue that the next dispatcher has not followed yet.
        """
        # Listeners get the tags codes of the messages; `prepare` may put something else into the queues' units.
        tags_codes = columns.tags_codes
        columns.tags_codes = list(tags_codes)
        for dispatcher in self._dispatchers:
            self._guarded(dispatcher.name, dispatcher.prepare, columns)
        columns.group(tags_codes)
        for dispatcher in self._dispatchers:
            self._guarded(dispatcher.name, dispatcher.apply, columns)
        if not quietly:
            for listener in self.listeners:
                arrived = listener.arrived
                for arrivals in columns.arrivals:
                    try:
                        arrived(arrivals)
                    except Exception:
                        self._failed(type(listener).__name__, arrivals)

    def _guarded(self, name: str, function: Callable[[Columns], None], columns: Columns) -> None:
        try:
            function(columns)
        except Exception:
            self._failed(name, columns)

    def _failed(self, name: str, argument: object) -> None:
        """Note an exception of any kind: what one derives must not depend on whether another could."""
        self.failures += 1
        logger.exception("%s failed over %r; it can be derived again from the log", name, argument)

    def wake_all(self) -> None:
        """Make every listener look again."""
        for listener in self.listeners:
            listener.wake_all()

    def __repr__(self) -> str:
        return f"<Dispatchers {', '.join(dispatcher.name for dispatcher in self._dispatchers)}>"
