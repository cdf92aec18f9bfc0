"""The broker under test: all stages installed, its topics made beforehand.

    python -m loadtests.bench.serve STORE_DIRECTORY PORT FLUSH TOPICS QUEUES [LOOP]

FLUSH is `ASYNC_FLUSH` or `SYNC_FLUSH`; LOOP is `uvloop` (the default, where it is installed) or `asyncio`. The port is
printed once the broker serves. Everything else is as in a broker that a person starts: hooks, statistics, index,
long polling, periodic work.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys

from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common.environment import system_environment
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.store.config import FlushDiskType, MessageStoreConfig

#: Names of the topics: `TopicBench`, or with several topics `TopicBench0`, `TopicBench1`, ...
TOPIC = "TopicBench"


def topic_names(count: int) -> list[str]:
    """Return the names of the topics that a run with `count` of them uses."""
    return [TOPIC] if count == 1 else [f"{TOPIC}{number}" for number in range(count)]


async def serve(directory: str, port: int, flush: str, topics: int, queues: int) -> None:
    """Start the broker, print its port, and serve until SIGTERM."""
    config = BrokerConfig(listen_port=port, namesrv_addr="")
    store_config = MessageStoreConfig(store_path_root_dir=directory, flush_disk_type=FlushDiskType(flush))
    kernel = build_broker(config, store_config, system_environment())
    await kernel.start()
    kernel.get(TopicConfigManager).update(
        TopicConfig(topic_name=name, read_queue_nums=queues, write_queue_nums=queues) for name in topic_names(topics)
    )
    gc.freeze()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    print(config.listen_port, flush=True)
    await stopped.wait()
    await kernel.stop()


def main(arguments: list[str]) -> None:
    """Run on the loop that is asked for."""
    directory, port, flush, topics, queues, *loop = arguments
    main_task = serve(directory, int(port), flush, int(topics), int(queues))
    if (loop or ["uvloop"])[0] == "uvloop":
        try:
            import uvloop
        except ImportError:
            pass
        else:
            uvloop.run(main_task)
            return
    asyncio.run(main_task)


if __name__ == "__main__":
    main(sys.argv[1:])
