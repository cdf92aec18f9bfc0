"""The rows of the bench: which load goes to which server, and which ratios of rows are required.

A ratio is taken within one round, between rows that were measured seconds apart; rounds are repeated and the median of
the ratios counts. So a neighbour that takes the machine for a while moves a round, not the verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Bytes of a body, and messages of a batch and of a pull.
SIZE: Final = 128
BATCH: Final = 32
#: Queues of the ordinary topic, and the many: 1,000 topics of 50.
QUEUES: Final = 8
MANY_TOPICS: Final = 1_000
MANY_QUEUES: Final = 50
#: Topic of the ordinary rows; the many are `TopicBench0`, `TopicBench1` and so on.
TOPIC: Final = "TopicBench"


@dataclass(frozen=True, slots=True)
class Row:
    """One load on one server.

    Attributes:
        name: for the table.
        group: what `--only` selects; also the phase in which the row is measured.
        server: which server it goes to, see `bench.py`.
        frames: which file of frames.
        connections: how many.
        window: requests under way on each.
        messages: messages in one request.
        half_of: an open loop at half the rate of that row of the same round, for latencies.
        seconds: how much longer than others it is measured; dirty queues are written every few seconds.
    """

    name: str
    group: str
    server: str
    frames: str
    connections: int
    window: int = 1
    messages: int = 1
    half_of: str = ""
    seconds: float = 1.0


ECHO: Final = Row("echo, 64 connections", "echo", "echo", "echo", 64)
SEND_64: Final = Row("send, 64 connections", "send", "broker", "send", 64)
PIPELINED: Final = Row("send, 16 connections x 32", "send", "broker", "send", 16, 32)
BATCHES: Final = Row("batch of 32, 16 connections", "batch", "broker", "batch", 16, 1, BATCH)
PULLS: Final = Row("pull of 32, 64 connections", "pull", "broker", "pull", 64, 1, BATCH)
SYNC_64: Final = Row("synchronous flush, 64", "flush", "synchronous", "send", 64)
MANY: Final = Row("50,000 queues, 64", "queues", "many", "many", 64, seconds=6.0)
FEW: Final = Row("8 queues, 64", "queues", "few", "send", 64, seconds=6.0)

#: In the order of one round: what is compared lies close together.
ROWS: Final = (
    ECHO,
    Row("echo, 16 connections x 32", "echo", "echo", "echo", 16, 32),
    PULLS,
    Row("send, 1 connection", "send", "broker", "send", 1),
    Row("send, 16 connections", "send", "broker", "send", 16),
    SEND_64,
    SYNC_64,
    Row("synchronous flush, 1", "flush", "synchronous", "send", 1),
    PIPELINED,
    BATCHES,
    Row("send at half load, 64", "latency", "broker", "send", 64, half_of=SEND_64.name),
    MANY,
    FEW,
)

#: What can be chosen: groups of rows, and two measurements that are no rows.
MEMORY: Final = "memory"
START: Final = "start"
GROUPS: Final = (*dict.fromkeys(row.group for row in ROWS), MEMORY, START)


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a figure must be.

    Attributes:
        name: for the table.
        limit: the required value.
        above, below: rows whose ratio is the figure; empty for a figure of its own.
        per_request: compare requests a second, not messages.
        figure: name of a figure that is no ratio.
        unit: of the figure; such a figure must be below the limit, a ratio must reach it.
    """

    name: str
    limit: float
    above: str = ""
    below: str = ""
    per_request: bool = False
    figure: str = ""
    unit: str = "x"

    def holds(self, value: float) -> bool:
        """Tell whether a value meets the requirement."""
        return value < self.limit if self.figure else value >= self.limit


REQUIREMENTS: Final = (
    Requirement("synchronous sends / echo", 0.30, SEND_64.name, ECHO.name, per_request=True),
    Requirement("pipelined / synchronous sends", 1.6, PIPELINED.name, SEND_64.name),
    Requirement("batches of 32 / pipelined sends", 2.0, BATCHES.name, PIPELINED.name),
    Requirement("pulls of 32 / echo", 0.30, PULLS.name, ECHO.name, per_request=True),
    Requirement("synchronous / asynchronous flush", 0.55, SYNC_64.name, SEND_64.name),
    Requirement("50,000 queues / 8 queues", 0.75, MANY.name, FEW.name),
    Requirement("private memory after writing and reading", 90.0, figure="rss_anon_mb", unit="MB"),
    Requirement("start to the first accepted send", 0.5, figure="start_seconds", unit="s"),
)


def topic_names() -> list[str]:
    """Return the names of the many topics."""
    return [f"{TOPIC}{number}" for number in range(MANY_TOPICS)]
