"""A broker in a process of its own, as `rmq-py broker start` runs it, and plain requests to it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from rocketmq_py.common.environment import SystemClock
from rocketmq_py.common.properties import encode_properties
from rocketmq_py.common.record import decode_records
from rocketmq_py.common.sys_flag import PULL_SUBSCRIPTION
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers.pull import PullMessageRequestHeader
from rocketmq_py.remoting.headers.send import SendMessageRequestHeader, SendMessageRequestHeaderV2

TOPIC = "KillLab"
QUEUES = 4
ADDRESS = re.compile(r"(127\.0\.0\.1:\d+)\] boot success")
SETTINGS = {
    "listenPort": "0",
    "mappedFileSizeCommitLog": str(1 << 20),
    "mappedFileSizeConsumeQueue": "20000",
    "maxHashSlotNum": "5000",
    "maxIndexNum": "20000",
}


@contextlib.asynccontextmanager
async def broker_processes(root: Path) -> AsyncIterator[Callable[..., Awaitable[BrokerProcess]]]:
    """Give a function that starts a broker on a store; whatever still runs at the end is killed."""
    started: list[BrokerProcess] = []

    async def spawn(**settings: str) -> BrokerProcess:
        started.append(await BrokerProcess.spawn(root, **settings))
        return started[-1]

    try:
        yield spawn
    finally:
        for broker in started:
            await broker.kill()


class BrokerProcess:
    """One `rmq-py broker start`."""

    def __init__(self, process: asyncio.subprocess.Process, log_path: Path) -> None:
        self.process = process
        self.address = ""
        self._log_path = log_path

    @classmethod
    async def spawn(cls, root: Path, **settings: str) -> BrokerProcess:
        """Start the process; it may not serve yet."""
        assignments = {"storePathRootDir": str(root), **SETTINGS, **settings}
        arguments = [f"--set={key}={value}" for key, value in assignments.items()]
        log_path = root.parent / "broker.log"
        with log_path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "rocketmq_py.cli.main",
                "broker",
                "start",
                *arguments,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        return cls(process, log_path)

    async def ready(self) -> None:
        """Wait until it serves."""
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            line = (await self.process.stdout.readline()).decode()
        match = ADDRESS.search(line)
        if match is None:
            raise AssertionError(f"the broker did not start: {line!r}\n{self.output()}")
        self.address = match[1]

    async def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.ended()

    async def terminate(self) -> int:
        """Send SIGTERM, wait for the end and return the exit status."""
        self.process.terminate()
        async with asyncio.timeout(10):
            return await self.ended()

    async def ended(self) -> int:
        """Wait for the end and return the exit status."""
        assert self.process.stdout is not None
        await self.process.stdout.read()
        return await self.process.wait()

    def output(self) -> str:
        """Return what it and those before it in this folder have logged."""
        return self._log_path.read_text("utf-8", "replace")[-4_000:]


class PlainClient:
    """Sends and pulls by plain requests, with no routes, groups or retries in between."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._remoting = RemotingClient(SystemClock())

    async def send(self, queue_id: int, body: bytes, **properties: str) -> int:
        """Send one message, with further properties if wanted; return its queue offset.

        Raises:
            Exception: it was not acknowledged; it may be stored.
        """
        header = SendMessageRequestHeader(
            producer_group="KillLabProducers",
            topic=TOPIC,
            default_topic="TBW102",
            default_topic_queue_nums=QUEUES,
            queue_id=queue_id,
            sys_flag=0,
            born_timestamp=1_768_463_999_123,
            flag=5,
            properties=encode_properties(
                {"UNIQ_KEY": body[:40].decode(), "KEYS": body[:12].decode(), **properties}
            ).decode(),
            reconsume_times=0,
            unit_mode=False,
            batch=False,
        )
        fields = encode_header(SendMessageRequestHeaderV2.from_v1(header))
        command = RemotingCommand.create_request(RequestCode.SEND_MESSAGE_V2, fields, body)
        response = await self._remoting.request(self.address, command, 10.0)
        if response.code != ResponseCode.SUCCESS:
            raise AssertionError(f"the send was answered {response.code}: {response.remark}")
        return int(response.ext_fields["queueOffset"])

    async def pull(self, queue_id: int, offset: int) -> tuple[list[bytes], int]:
        """Pull from an offset on; return bodies and the offset to go on from."""
        header = PullMessageRequestHeader(
            consumer_group="KillLabReaders",
            topic=TOPIC,
            queue_id=queue_id,
            queue_offset=offset,
            max_msg_nums=32,
            sys_flag=PULL_SUBSCRIPTION,
            commit_offset=0,
            suspend_timeout_millis=0,
            sub_version=0,
            subscription="*",
        )
        command = RemotingCommand.create_request(RequestCode.PULL_MESSAGE, encode_header(header))
        response = await self._remoting.request(self.address, command, 10.0)
        if response.code == ResponseCode.SUCCESS:
            messages = list(decode_records(response.body))
            assert [message.queue_offset for message in messages] == list(range(offset, offset + len(messages)))
            return [message.body for message in messages], int(response.ext_fields["nextBeginOffset"])
        if response.code == ResponseCode.PULL_NOT_FOUND:
            return [], offset
        raise AssertionError(f"the pull from {offset} was answered {response.code}: {response.remark}")

    async def read_queue(self, queue_id: int, offset: int = 0) -> list[bytes]:
        """Pull a queue from an offset to its end."""
        found: list[bytes] = []
        while True:
            bodies, following = await self.pull(queue_id, offset)
            if not bodies:
                return found
            found += bodies
            offset = following

    async def close(self) -> None:
        """Close the connection."""
        await self._remoting.close()
