"""The transfer example with every process killed at every step, the broker too: money is conserved."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from types import ModuleType

import pytest

from labs.kill.broker_process import broker_processes
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.common.environment import system_environment
from rocketmq_py.course.manifest import project_root
from rocketmq_py.namesrv.config import NamesrvConfig
from rocketmq_py.namesrv.server import Namesrv
from rocketmq_py.testing.eventually import eventually
from rocketmq_py.testing.free_port import free_port

PROGRAM = project_root(Path(__file__).resolve()) / "docs/examples/transfer.py"
SENDER_STEPS = ("half message stored", "debited, not committed", "debited", "broker told")
RECEIVER_STEPS = ("message received", "credited, not committed", "credited")
START = 1_000
PATIENCE = 60.0


def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("transfer", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def states(path: Path) -> dict[str, str]:
    """Return what a bank remembers: transfer and state."""
    with closing(sqlite3.connect(path, timeout=20)) as bank:
        return dict(bank.execute("SELECT id, state FROM transfers").fetchall())


class Role:
    """One process of the example."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def killed(self) -> bool:
        """Wait for its end; tell whether it was killed at its step."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            await self.process.stdout.read()
            return await self.process.wait() == -signal.SIGKILL

    async def ready(self) -> None:
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert await self.process.stdout.readline() == b"ready\n"

    async def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            async with asyncio.timeout(PATIENCE):
                await self.process.wait()
        finally:
            if self.process.returncode is None:
                self.process.kill()
                await self.process.wait()


class Banks:
    """The two databases, and the processes that work on them."""

    def __init__(self, folder: Path, namesrv: str) -> None:
        self.folder = folder
        self.namesrv = namesrv
        self.a, self.b = folder / "a.db", folder / "b.db"
        self.roles: list[Role] = []

    async def run(self, role: str, *, crash_at: str = "", count: int = 1) -> Role:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(PROGRAM), role, "--namesrv", self.namesrv, "--folder", str(self.folder)),
            *("--count", str(count)),
            env={**os.environ, "CRASH_AT": crash_at},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        self.roles.append(Role(process))
        return self.roles[-1]

    async def stop(self) -> None:
        for role in self.roles:
            if role.process.returncode is None:
                role.process.kill()
                await role.process.wait()


@asynccontextmanager
async def banks(folder: Path, namesrv: str) -> AsyncIterator[Banks]:
    made = Banks(folder, namesrv)
    example = program()
    example.open_bank(made.a, alice=START)
    example.open_bank(made.b, bob=0)
    try:
        yield made
    finally:
        await made.stop()


@pytest.mark.serial
@pytest.mark.claim("tx-08")
@pytest.mark.timeout(240)
async def test_money_is_conserved_whoever_is_killed_and_when(tmp_path: Path) -> None:
    """Claim: money leaves one account if and only if the message that credits the other is delivered, under crashes at
    every step, the consumer being idempotent.

    Experiment: senders that are killed after the half message, in and after the debit, and after the broker was told;
        receivers that are killed before, in and after the credit; a broker that is killed with transactions open, twice;
        in between transfers that nobody disturbs. A member of the senders' group that has sent nothing answers the checks.
    Observe: each transfer that was debited is credited, once; none that was given up is; both banks together have what
        they had.
    """
    root, environment = tmp_path / "store", system_environment()
    namesrv = Namesrv(NamesrvConfig(listen_port=0, kv_config_path=str(tmp_path / "kv.json")), environment)
    await namesrv.start()
    settings = {
        "namesrvAddr": namesrv.address,
        "listenPort": str(free_port()),
        "transactionCheckInterval": "500",
        "transactionTimeOut": "700",
    }
    try:
        async with broker_processes(root) as spawn, banks(tmp_path, namesrv.address) as both:
            broker = await spawn(**settings)
            await broker.ready()
            async with AdminClient(namesrv_addr=namesrv.address) as admin:
                await admin.topics.create("Money", queues=2)
            for crash_at in SENDER_STEPS:
                assert await (await both.run("send", crash_at=crash_at, count=2)).killed(), crash_at
            assert not await (await both.run("send", count=5)).killed()
            # Killed with one half message undecided, and decisions that may be in no op record yet.
            await broker.kill()
            broker = await spawn(**settings)
            await broker.ready()
            for crash_at in RECEIVER_STEPS:
                assert await (await both.run("receive", crash_at=crash_at)).killed(), crash_at
            assert await (await both.run("send", crash_at="debited")).killed()
            await broker.kill()
            broker = await spawn(**settings)
            await broker.ready()
            answering, receiving = await both.run("stand-by"), await both.run("receive")
            await answering.ready()
            await receiving.ready()
            assert not await (await both.run("send", count=5)).killed()

            def debited() -> set[str]:
                return {transfer for transfer, state in states(both.a).items() if state == "debited"}

            given_up = {"half message stored", "debited, not committed"}
            await eventually(
                lambda: list(states(both.a).values()).count("given up") == len(given_up), PATIENCE, step=0.1
            )
            await eventually(lambda: set(states(both.b)) >= debited(), PATIENCE, step=0.1)
            # A second copy of anything would come within a few checks.
            await asyncio.sleep(2)
            await answering.stop()
            await receiving.stop()
            assert set(states(both.b)) == debited(), "a transfer was credited that was never debited"
            example = program()
            count = len(debited())
            assert example.total(both.a) == START - 10 * count
            assert example.total(both.b) == 10 * count
            print(f"{count} transfers, {states(both.a)}")
            assert count == 1 + 1 + 5 + 1 + 5
    finally:
        await namesrv.stop()


def test_the_two_sides_refuse_to_disagree(tmp_path: Path) -> None:
    """The fence between a slow local transaction and a check: whoever writes the transfer's row first has decided."""
    example = program()
    example.open_bank(tmp_path / "a.db", alice=100)
    debit = example.Debit(tmp_path / "a.db")
    states_of = example.LocalTransactionState
    transfer = example.Message.of("Money", b'{"id": "t1", "from": "alice", "to": "bob", "amount": 10}')
    assert debit.check_local_transaction(transfer) is states_of.ROLLBACK_MESSAGE
    assert debit.execute_local_transaction(transfer, None) is states_of.ROLLBACK_MESSAGE
    assert example.total(tmp_path / "a.db") == 100

    other = example.Message.of("Money", b'{"id": "t2", "from": "alice", "to": "bob", "amount": 10}')
    assert debit.execute_local_transaction(other, None) is states_of.COMMIT_MESSAGE
    assert debit.check_local_transaction(other) is states_of.COMMIT_MESSAGE
    assert debit.execute_local_transaction(other, None) is states_of.ROLLBACK_MESSAGE, "not debited a second time"
    poor = example.Message.of("Money", b'{"id": "t3", "from": "alice", "to": "bob", "amount": 1000}')
    assert debit.execute_local_transaction(poor, None) is states_of.ROLLBACK_MESSAGE
    assert example.total(tmp_path / "a.db") == 90


def test_a_transfer_that_comes_again_is_credited_once(tmp_path: Path) -> None:
    example = program()
    example.open_bank(tmp_path / "b.db", bob=0)
    credit = example.Credit(tmp_path / "b.db")
    transfer = example.Message.of("Money", b'{"id": "t1", "from": "alice", "to": "bob", "amount": 10}')
    for _ in range(3):
        credit([transfer, transfer], None)
    assert example.total(tmp_path / "b.db") == 10
