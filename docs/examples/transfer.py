"""Move money between two banks that have no transaction in common: a transactional message joins their two.

python docs/examples/transfer.py                    ten transfers from bank A to bank B, and the balances
python docs/examples/transfer.py send --count 10    only the side of bank A; at other places `receive` runs

Bank A debits an account and the message goes out, or neither. Bank B credits an account and remembers the transfer, or
neither. So money is only ever here, there, or on its way, wherever a process or a broker is killed.
"""

import argparse
import contextlib
import json
import os
import signal
import sqlite3
import tempfile
import threading
import uuid
from pathlib import Path

from rocketmq_py.client import sync
from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.client.transaction_listener import LocalTransactionState
from rocketmq_py.client.transaction_sync import TransactionProducer
from rocketmq_py.common.message import Message
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere

TOPIC, BANK_A, BANK_B = "Money", "BankA", "BankB"
TABLES = """
    CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, balance INTEGER CHECK (balance >= 0));
    CREATE TABLE IF NOT EXISTS transfers (id TEXT PRIMARY KEY, state TEXT);
"""


def open_bank(path: Path, **balances: int) -> None:
    """Create a bank's database; one that is there stays as it is."""
    with connect(path) as bank, bank:
        bank.executescript(TABLES)
        bank.executemany("INSERT OR IGNORE INTO accounts VALUES (?, ?)", balances.items())


def connect(path: Path):
    """Return a connection that its `with` statement closes."""
    return contextlib.closing(sqlite3.connect(path, timeout=20))


def total(path: Path) -> int:
    """Return how much money a bank has."""
    with connect(path) as bank:
        return bank.execute("SELECT sum(balance) FROM accounts").fetchone()[0]


class Debit:
    """The side of bank A: what the transactional producer calls."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def execute_local_transaction(self, message: Message, argument: object) -> LocalTransactionState:
        transfer = json.loads(message.body)
        step("half message stored")
        try:
            with connect(self.path) as bank, bank:
                # Fails if a check has given this transfer up in the meantime, or if the account is too poor.
                bank.execute("INSERT INTO transfers VALUES (?, 'debited')", (transfer["id"],))
                update = "UPDATE accounts SET balance = balance - ? WHERE name = ?"
                bank.execute(update, (transfer["amount"], transfer["from"]))
                step("debited, not committed")
        except sqlite3.IntegrityError:
            return LocalTransactionState.ROLLBACK_MESSAGE
        step("debited")
        return LocalTransactionState.COMMIT_MESSAGE

    def check_local_transaction(self, message: Message) -> LocalTransactionState:
        transfer = json.loads(message.body)
        with connect(self.path) as bank, bank:
            # Whoever says "rolled back" must see to it that nobody commits afterwards.
            bank.execute("INSERT OR IGNORE INTO transfers VALUES (?, 'given up')", (transfer["id"],))
            (state,) = bank.execute("SELECT state FROM transfers WHERE id = ?", (transfer["id"],)).fetchone()
        is_debited = state == "debited"
        return LocalTransactionState.COMMIT_MESSAGE if is_debited else LocalTransactionState.ROLLBACK_MESSAGE


class Credit:
    """The side of bank B: what the consumer calls. A transfer that comes again is recognised by its id."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.has_come = threading.Semaphore(0)

    def __call__(self, messages: list, context: object) -> None:
        step("message received")
        for message in messages:
            transfer = json.loads(message.body)
            with connect(self.path) as bank, bank:
                known = bank.execute("INSERT OR IGNORE INTO transfers VALUES (?, 'credited')", (transfer["id"],))
                if known.rowcount == 1:
                    update = "UPDATE accounts SET balance = balance + ? WHERE name = ?"
                    bank.execute(update, (transfer["amount"], transfer["to"]))
                step("credited, not committed")
            step("credited")
            self.has_come.release()


def step(name: str) -> None:
    """A moment at which this process may die: the environment variable CRASH_AT kills it there."""
    if os.environ.get("CRASH_AT") == name:
        os.kill(os.getpid(), signal.SIGKILL)


def send(namesrv_addr: str, folder: Path, count: int) -> None:
    """Transfer 10 from Alice at bank A to Bob at bank B, `count` times."""
    producer = TransactionProducer(BANK_A, Debit(folder / "a.db"), namesrv_addr=namesrv_addr, topics=[TOPIC])
    with producer:
        for _ in range(count):
            transfer = {"id": uuid.uuid4().hex, "from": "alice", "to": "bob", "amount": 10}
            message = Message.of(TOPIC, json.dumps(transfer).encode(), keys=transfer["id"])
            result = producer.send_message_in_transaction(message)
            step("broker told")
            print(transfer["id"], result.local_transaction_state.name, flush=True)


def stand_by(namesrv_addr: str, folder: Path) -> None:
    """Send nothing, but answer for members of the group that have died, until standard input ends."""
    with TransactionProducer(BANK_A, Debit(folder / "a.db"), namesrv_addr=namesrv_addr, topics=[TOPIC]):
        print("ready", flush=True)
        input_ends()


@contextlib.contextmanager
def receiving(namesrv_addr: str, folder: Path):
    """Credit what comes, for the time of a `with` block."""
    credit = Credit(folder / "b.db")
    config = PushConsumerConfig(
        namesrv_addr=namesrv_addr, consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
    )
    consumer = sync.PushConsumer(BANK_B, config)
    consumer.subscribe(TOPIC)
    consumer.register_listener(credit)
    with consumer:
        yield credit


def receive(namesrv_addr: str, folder: Path) -> None:
    """Credit what comes until standard input ends."""
    with receiving(namesrv_addr, folder):
        print("ready", flush=True)
        input_ends()


def input_ends() -> None:
    """Wait until standard input ends."""
    with contextlib.suppress(EOFError):
        while True:
            input()


def main(namesrv_addr: str = "127.0.0.1:9876", folder: Path | None = None) -> None:
    """Ten transfers, of which Alice can afford eight."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = folder or Path(temporary)
        open_bank(folder / "a.db", alice=80)
        open_bank(folder / "b.db", bob=0)
        send(namesrv_addr, folder, 10)
        with receiving(namesrv_addr, folder) as credit:
            for _ in range(8):
                credit.has_come.acquire(timeout=30)
        print(f"bank A has {total(folder / 'a.db')}, bank B has {total(folder / 'b.db')}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("role", nargs="?", choices=["demo", "send", "stand-by", "receive"], default="demo")
    parser.add_argument("--namesrv", default="127.0.0.1:9876")
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--count", type=int, default=10)
    options = parser.parse_args()
    if options.role == "demo":
        main(options.namesrv)
    elif options.role == "send":
        send(options.namesrv, options.folder, options.count)
    elif options.role == "stand-by":
        stand_by(options.namesrv, options.folder)
    else:
        receive(options.namesrv, options.folder)
