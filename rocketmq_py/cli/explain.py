"""What a broker is made of, by stage: found by building it once for every stage and looking what each one adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.stages import available_stages
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.processors import Processors
from rocketmq_py.store.dispatch import Dispatchers

#: Kind and name of one thing.
Thing = tuple[str, str]
_CODES = frozenset(RequestCode)


def explain(build: Callable[[str], Kernel], through: str | None) -> Iterator[tuple[str, Thing]]:
    """Yield stage and thing of everything that is installed.

    Args:
        build: returns a broker of the stages up to one, not started.
        through: the last stage; None for all.
    """
    known: set[Thing] = set()
    for stage in available_stages():
        things = list(things_of(build(stage)))
        yield from ((stage, thing) for thing in things if thing not in known)
        known.update(things)
        if stage == through:
            return


def things_of(kernel: Kernel) -> Iterator[Thing]:
    """Yield kind and name of everything in a broker."""
    for part in kernel.parts:
        yield "part", part.kind.__name__
    if kernel.has(Dispatchers):
        dispatchers = kernel.get(Dispatchers)
        yield from (("dispatcher", dispatcher.name) for dispatcher in dispatchers.dispatchers)
        yield from (("arrival listener", type(listener).__name__) for listener in dispatchers.listeners)
    for part in kernel.parts:
        # Put hooks, send hooks and whatever a later stage has of the kind.
        hooks = getattr(part.part, "hooks", None)
        if isinstance(hooks, tuple):
            yield from (("hook", f"{hook.name}, triggers {_joined(hook.triggers)}") for hook in hooks)
    if kernel.has(Processors):
        processors = kernel.get(Processors)
        for registration in processors.registrations():
            code = registration.code
            hot = ", hot path" if code in processors.hot else ""
            # A code of our own has no name among RocketMQ's.
            name = RequestCode(code).name if code in _CODES else "(ours)"
            yield "request", f"{name} {code}{hot}"
    yield from (("table", table.name) for table in kernel.tables)
    yield from (("periodic", f"{work.name}, every {work.seconds:g} s") for work in kernel.periodic.works)


def _joined(triggers: tuple[bytes, ...]) -> str:
    return ", ".join(trigger.decode("ascii", "backslashreplace").rstrip("\x01") for trigger in triggers) or "none"
