"""`python -m loadtests.delays`: what messages cost that wait, and how exactly they are delivered.

    fill      put a million messages of a long level, next to as many ordinary ones for comparison
    idle      do nothing while they wait
    accuracy  deliver messages of a second in front of the waiting million
    restart   stop, and start with the million waiting
    flood     let all of them be due at once, while a client goes on putting ordinary messages

Everything runs in one process on real files; messages are put as a broker puts them after it has read a request, so
the cost of the network is in no figure. Lateness is the time from the moment when a message is due to its store time in
the real topic, in whole milliseconds, as records carry them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.properties import encode_properties
from rocketmq_py.common.topic import SCHEDULE_TOPIC
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.offset_search import store_timestamp_of
from rocketmq_py.store.put_message import MessagePutter
from rocketmq_py.testing.eventually import eventually

try:
    from uvloop import new_event_loop
except ImportError:
    from asyncio import new_event_loop

TOPIC, BUSY = "Delayed", "Busy"
#: Messages of one turn of the loop, as many as a busy broker has.
TURN = 64
#: The level that waits, before and after it is made due, and the level that is delivered in front of it.
WAITING, SOON = 2, 1
BORN = bytes((127, 0, 0, 1, 0, 0, 0x27, 0x0F))


def draft(topic: str, body: bytes, level: int = 0) -> Draft:
    """Return a message as it comes from a client."""
    properties = {"UNIQ_KEY": "7F00000100002A139A550A1B2C3D0007", "TAGS": "load"}
    if level:
        properties["DELAY"] = str(level)
    stored = encode_properties(properties)
    now = time.time_ns() // 1_000_000
    return Draft(topic, 0, body, properties, stored, born_timestamp=now, born_host=BORN, tags_code=3327206)


@contextlib.asynccontextmanager
async def broker(folder: str, levels: str) -> AsyncIterator[Kernel]:
    """Run a broker on real files."""
    store_config = MessageStoreConfig(
        store_path_root_dir=folder, mapped_file_size_commit_log=256 << 20, message_delay_level=levels
    )
    kernel = build_broker(BrokerConfig(listen_port=0), store_config, system_environment(), "delay")
    await kernel.start()
    try:
        yield kernel
    finally:
        await kernel.stop()


async def fill(kernel: Kernel, count: int, body: bytes, topic: str, level: int) -> float:
    """Put messages, `TURN` in each turn of the loop; return CPU microseconds of one."""
    putter = kernel.get(MessagePutter)
    began = time.process_time()
    for start in range(0, count, TURN):
        puts = [putter.put_message(draft(topic, body, level)) for _ in range(min(TURN, count - start))]
        results = await asyncio.gather(*puts)
        if not all(result.is_stored for result in results):
            raise SystemExit(f"a put failed: {results[0].status}")
    return (time.process_time() - began) * 1e6 / count


def anonymous_bytes() -> int:
    """Return the memory of this process without pages of files; 0 where the system does not tell."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


def percentiles(values: Sequence[float]) -> str:
    """Return median, 99 of 100 and the largest value."""
    ordered = sorted(values)
    if not ordered:
        return "none"
    shown = (ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100], ordered[-1])
    return " / ".join(f"{value:.1f}" for value in shown)


def lateness(store: MessageStore) -> Iterator[float]:
    """Yield how late the messages of the real topic came, milliseconds."""
    for offset in range(store.max_offset(TOPIC, 0)):
        waited, came = store.queues.find(SCHEDULE_TOPIC, SOON - 1), store.queues.find(TOPIC, 0)
        if waited is None or came is None:
            return
        due, stored = waited.unit(offset), came.unit(offset)
        if due is None or stored is None:
            return
        yield store_timestamp_of(store.look_record(stored[0])) - due[2]


async def measure_accuracy(kernel: Kernel, body: bytes, seconds: float) -> None:
    """Put messages of a second at odd moments and say how late they came."""
    store, putter = kernel.get(MessageStore), kernel.get(MessagePutter)
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        await putter.put_message(draft(TOPIC, body, SOON))
        count += 1
        await asyncio.sleep(0.0037)
    with contextlib.suppress(AssertionError):
        # Those that have not come by then are missing in the line below.
        await eventually(lambda: store.max_offset(TOPIC, 0) >= count, 10)
    late = list(lateness(store))
    print(
        f"accuracy  {len(late)} of {count} messages of 1 s came; late by {percentiles(late)} ms (median / 99 % / most)"
    )


async def measure_flood(kernel: Kernel, count: int, already: int, body: bytes) -> None:
    """Wait until all that waits is delivered; meanwhile put ordinary messages and time their answers."""
    store, putter = kernel.get(MessageStore), kernel.get(MessagePutter)
    began, cpu = time.monotonic(), time.process_time()
    answers: list[float] = []
    while store.max_offset(TOPIC, 0) < count + already:
        begin = time.monotonic()
        await putter.put_message(draft(BUSY, body))
        answers.append((time.monotonic() - begin) * 1_000)
        await asyncio.sleep(0.005)
    seconds, used = time.monotonic() - began, time.process_time() - cpu
    print(f"flood     {count} messages in {seconds:.1f} s: {count / seconds:,.0f}/s")
    print(f"          {used * 1e6 / count:.1f} us of CPU each, the client's share included")
    print(f"          a client's put meanwhile took {percentiles(answers)} ms (median / 99 % / most of {len(answers)})")


def tree_bytes(folder: Path) -> int:
    """Return what the files of a folder take on disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


async def run(options: argparse.Namespace, folder: str) -> None:
    """Run all measurements one after the other."""
    count, body, root = options.messages, b"x" * options.body_size, Path(folder)
    async with broker(folder, "1s 2h") as kernel:
        store = kernel.get(MessageStore)
        await fill(kernel, 2_000, body, "Warm", 0)
        plain = await fill(kernel, count // 5, body, BUSY, 0)
        memory, log = anonymous_bytes(), store.log.max_offset
        delayed = await fill(kernel, count, body, TOPIC, WAITING)
        await store.sync_queues()
        await asyncio.sleep(1)
        grown = anonymous_bytes() - memory
        queue = tree_bytes(root / "consumequeue" / SCHEDULE_TOPIC)
        print(
            f"fill      {count} messages of {options.body_size} B wait; {delayed:.1f} us of CPU each, an ordinary one {plain:.1f}"
        )
        print(
            f"          each takes {(store.log.max_offset - log) / count:.0f} B of the log, {queue / count:.1f} B of a queue, "
            f"{grown / count:.1f} B of memory"
        )
        cpu, begin = time.process_time(), time.monotonic()
        await asyncio.sleep(options.seconds)
        share = (time.process_time() - cpu) / (time.monotonic() - begin)
        print(f"idle      {share * 100:.2f} % of a core while they wait")
        await measure_accuracy(kernel, body, options.seconds)
        already = store.max_offset(TOPIC, 0)
    begin = time.monotonic()
    async with broker(folder, "1s 2h"):
        print(f"restart   {(time.monotonic() - begin) * 1_000:.0f} ms with all of them waiting")
    # Their times are now further away than the level allows: they are due at once.
    async with broker(folder, "1s 1s") as kernel:
        await measure_flood(kernel, count, already, body)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"memory    at most {peak / 1024:.0f} MiB, pages of mapped files included")


def main(arguments: list[str]) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.delays", description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000, help="how many wait (1,000,000: about 2 GB of disk)")
    parser.add_argument("--body-size", type=int, default=128, help="bytes of one message (128)")
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds of idle and accuracy (10)")
    parser.add_argument("--dir", help="where the files go for the time of the run; default: a temporary folder")
    options = parser.parse_args(arguments)
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, loop {new_event_loop.__module__}")
    with (
        tempfile.TemporaryDirectory(prefix="rocketmq-py-delays-", dir=options.dir) as folder,
        asyncio.Runner(loop_factory=new_event_loop) as runner,
    ):
        runner.run(run(options, folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
