"""Questions and answers as load: users that ask and wait for their replies, and consumers that answer.

    rmq-py standalone                                                     (in another terminal)
    python -m locust -f loadtests/questions.py --headless -u 20 -r 10 -t 20s

`REQUEST` is the time from the call of a producer to the reply: a send, the way to a consumer, its reply to the broker and the
broker's word to who asked. Each reply repeats what its question said, so that a reply to another question is a failure, as is
one that does not come. Options are those of `locustfile.py`; `--rate` counts questions.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

# Locust runs every user class that it finds in this module's names: the plain producers are not among them.
from loadtests import locustfile
from loadtests.locustfile import CLIENT_ENVIRONMENT, STAMP, Run
from rocketmq_py.client.config import ProducerConfig
from rocketmq_py.client.consume_service import ConsumeContext, Listener
from rocketmq_py.client.request_producer import RequestProducer
from rocketmq_py.common.message import Message, MessageExt

#: Seconds that a question may take. The first ones wait until the consumers have divided the queues among themselves.
REPLY_SECONDS = 10.0


def request_producer(run: Run, group: str) -> RequestProducer:
    """Return a producer of its own client, not started."""
    config = ProducerConfig(namesrv_addr=run.name_servers, instance_name=f"load-{uuid.uuid4().hex[:12]}")
    return RequestProducer(group, config, environment=CLIENT_ENVIRONMENT)


class RequestUser(locustfile.ProducerUser):
    """Asks `--rate` questions a second, one after the other."""

    producer: RequestProducer

    def make_producer(self, run: Run) -> RequestProducer:
        """Return a producer that can ask."""
        return request_producer(run, f"{run.group}Askers")

    def send_one(self, run: Run) -> None:
        """Ask one question, wait for the reply and count it."""
        message, number = run.message()
        # At the end of the run the questions that still wait are waited for.
        run.expect(number)
        result, seconds = run.loop.run(self._ask(message))
        run.forget(number)
        if isinstance(result, Exception):
            run.report("REQUEST", seconds, 0, result)
        elif result.body.decode() != message.get(STAMP):
            run.report("REQUEST", seconds, len(result.body), LookupError("a reply came that answers another question"))
        else:
            run.report("REQUEST", seconds, len(result.body))

    async def _ask(self, message: Message) -> tuple[MessageExt | Exception, float]:
        begin = time.perf_counter()
        try:
            result: MessageExt | Exception = await self.producer.request(message, timeout=REPLY_SECONDS)
        except Exception as error:
            # Whatever went wrong is a row in Locust's table of failures.
            result = error
        return result, time.perf_counter() - begin


class ReplierUser(locustfile.ConsumerUser):
    """A member of the consumer group that answers."""

    def on_start(self) -> None:
        """Start the producer of the replies, then join the group."""
        run = locustfile.run_of(self.environment)
        self.replies = request_producer(run, f"{run.group}Repliers")
        run.loop.run(self.replies.start())
        super().on_start()

    def listener(self, run: Run) -> Listener:
        """Return what answers the questions of this run; those of runs before it wait no more."""

        async def answer(messages: Sequence[MessageExt], context: ConsumeContext) -> None:
            for question in messages:
                stamp = question.get(STAMP) or ""
                if stamp.startswith(run.identity):
                    await self.replies.reply(question, stamp.encode())

        return answer

    def on_stop(self) -> None:
        """Leave the group, then stop answering."""
        super().on_stop()
        self.run_state.loop.run(self.replies.stop())
