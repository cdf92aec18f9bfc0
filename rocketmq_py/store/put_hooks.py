"""Put hooks: what concerns every put, also those of the broker itself.

Delay levels and timers are hooks of this kind: they redirect a put to a topic of their own and keep the real topic and
queue in properties. What concerns only messages that clients send is a send hook of the broker.

Source: `PutMessageHook`, `HookUtils`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rocketmq_py.store.draft import Draft
from rocketmq_py.store.put_result import PutMessageStatus


@dataclass(frozen=True, slots=True)
class PutHook:
    """One hook.

    Attributes:
        name: for listings.
        triggers: regular expressions for the beginning of a property in a client's text, name first, such as
            `DELAY\\x01`. A message without any trigger takes a way into the log on which no hook runs.
        apply: looks at a draft, changes it or refuses it.
    """

    name: str
    triggers: tuple[bytes, ...]
    apply: Callable[[Draft], PutMessageStatus | None]


class PutHooks:
    """The installed hooks, in the order in which they run."""

    def __init__(self) -> None:
        self._hooks: list[PutHook] = []
        #: Called after a hook was installed: what depends on the triggers is void.
        self.on_change: list[Callable[[], None]] = []

    @property
    def hooks(self) -> tuple[PutHook, ...]:
        """The hooks in order."""
        return tuple(self._hooks)

    @property
    def triggers(self) -> tuple[bytes, ...]:
        """All triggers of all hooks."""
        return tuple(trigger for hook in self._hooks for trigger in hook.triggers)

    def install(self, hook: PutHook) -> None:
        """Append a hook.

        Raises:
            ValueError: a hook of that name is installed.
        """
        if any(hook.name == other.name for other in self._hooks):
            raise ValueError(f"put hook {hook.name!r} is installed twice")
        self._hooks.append(hook)
        for listener in self.on_change:
            listener()

    def apply(self, draft: Draft) -> PutMessageStatus | None:
        """Run the hooks in order; the first refusal ends it and is returned."""
        for hook in self._hooks:
            status = hook.apply(draft)
            if status is not None:
                return status
        return None
