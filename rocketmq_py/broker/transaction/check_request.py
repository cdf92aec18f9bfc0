"""Asking a producer how a transaction ended: CHECK_TRANSACTION_STATE (39), one-way, to any member of its group.

Source: `AbstractTransactionalMessageCheckListener#sendCheckMessage`, `Broker2Client#checkProducerTransactionState`,
RocketMQ 5.3.
"""

from __future__ import annotations

import logging
from typing import Final

from rocketmq_py.broker.client.producer_manager import ProducerManager
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.transaction.transaction_table import Place
from rocketmq_py.common import properties as names
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.java import parse_i32
from rocketmq_py.common.message_id import create_offset_id
from rocketmq_py.common.record import Record, encode_record
from rocketmq_py.common.topic import TRANS_HALF_TOPIC
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers.transaction import CheckTransactionStateRequestHeader
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.draft import Draft

logger = logging.getLogger(__name__)

#: How many members of a group are tried.
TRIES: Final = 3


class CheckSender:
    """Asks producers.

    Args:
        config: the broker's name.
        producers: who is there.
        log: the broker's address, as records carry it.
    """

    def __init__(self, config: BrokerConfig, producers: ProducerManager, log: CommitLog) -> None:
        self._config = config
        self._producers = producers
        self._log = log

    def send(self, half: Record, copy: Draft, place: Place, store_timestamp: int) -> bool:
        """Ask one live member of the half message's group, another one each time.

        Args:
            half: the half message as it was read.
            copy: what was put back of it.
            place: where that lies; the answer names it.
            store_timestamp: when it was stored, milliseconds since 1970.

        Returns:
            Whether somebody was asked. If not, the next run tries again.
        """
        group = copy.properties.get(names.PGROUP, "")
        for _ in range(TRIES):
            connection = self._producers.next_available(group)
            if connection is None:
                break
            try:
                connection.one_way(self._command(half, copy, place, store_timestamp))
            except RemotingError as error:
                logger.info("producer %s of group %s could not be asked: %s", connection.remote_address, group, error)
            except InvalidInputError as error:
                logger.error("the half message at %d cannot be asked about: %s", place.physical_offset, error)
                break
            else:
                return True
        logger.info("nobody of producer group %r can say how the transaction at %d ended", group, place.physical_offset)
        return False

    def _command(self, half: Record, copy: Draft, place: Place, store_timestamp: int) -> RemotingCommand:
        unique_key = copy.properties.get(names.UNIQ_KEY)
        header = CheckTransactionStateRequestHeader(
            tran_state_table_offset=place.queue_offset,
            commit_log_offset=place.physical_offset,
            msg_id=unique_key,
            transaction_id=unique_key,
            offset_msg_id=create_offset_id(self._log.store_host, place.physical_offset),
            topic=TRANS_HALF_TOPIC,
            broker_name=self._config.broker_name,
        )
        # To the producer it is the message that it sent, in its real topic and queue.
        body = encode_record(
            topic=copy.properties.get(names.REAL_TOPIC, "").encode(),
            queue_id=parse_i32(copy.properties.get(names.REAL_QID, ""), names.REAL_QID),
            body=half.body,
            properties=copy.stored_properties,
            born_host=half.born_host,
            store_host=self._log.store_host,
            queue_offset=place.queue_offset,
            physical_offset=place.physical_offset,
            flag=half.flag,
            sys_flag=half.sys_flag,
            born_timestamp=half.born_timestamp,
            store_timestamp=store_timestamp,
            reconsume_times=half.reconsume_times,
        )
        return RemotingCommand.create_request(RequestCode.CHECK_TRANSACTION_STATE, encode_header(header), body)
