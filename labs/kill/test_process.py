"""Start, second start, stop and kill of a broker process, as an operator sees them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from labs.kill.broker_process import PlainClient, broker_processes


@pytest.mark.serial
async def test_a_second_broker_on_the_same_store_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    """Claim: a second start on a locked store refuses clearly, with a status, and harms nothing.

    Experiment: start a broker, send; start another on the same store; send again.
    Observe: the second exits with status 1 and says which process has the store and what to do; the first has both
    messages.
    """
    async with broker_processes(tmp_path / "store") as spawn:
        first = await spawn()
        await first.ready()
        client = PlainClient(first.address)
        await client.send(0, b"before")

        second = await spawn()
        assert await second.ended() == 1
        text = second.output()
        assert "boot success" not in text
        assert f"is in use by process {first.process.pid}" in text
        assert "storePathRootDir" in text
        assert "Traceback" not in text

        await client.send(0, b"after")
        assert await client.read_queue(0) == [b"before", b"after"]
        await client.close()
        assert await first.terminate() == 0


@pytest.mark.serial
async def test_a_stop_leaves_no_abort_file_and_a_kill_does(tmp_path: Path) -> None:
    """Claim: SIGTERM ends a broker within five seconds, with everything on disk; SIGKILL is noticed by the next start.

    Experiment: start, send, SIGTERM; start, send, SIGKILL; start.
    Observe: no abort file after the first, one with the process's number after the second; the third start says how it
    found the store, and has all messages.
    """
    async with broker_processes(tmp_path / "store") as spawn:
        root, loop = tmp_path / "store", asyncio.get_running_loop()
        sent = []
        for stop in ("terminate", "kill"):
            broker = await spawn()
            await broker.ready()
            client = PlainClient(broker.address)
            for number in range(50):
                sent.append(f"{stop}-{number}".encode())
                await client.send(1, sent[-1])
            await client.close()
            pid, began = broker.process.pid, loop.time()
            if stop == "terminate":
                assert await broker.terminate() == 0
                assert loop.time() - began < 5.0
                assert "abort" not in os.listdir(root)
            else:
                await broker.kill()
                assert (root / "abort").read_text() == str(pid)

        broker = await spawn()
        await broker.ready()
        assert "recovered after a crash or a kill" in broker.output()
        client = PlainClient(broker.address)
        assert await client.read_queue(1) == sent
        await client.close()
        assert await broker.terminate() == 0
