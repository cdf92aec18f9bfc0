"""Who serves a read: the master sends readers of old messages to a slave, and a slave sends them back.

    master   the read was slow (further from the end than 40 % of memory)   -> ask the slave that the group names, 1
    slave    the read was not slow any more, and a master is alive          -> ask the master
    slave    nothing found, and a master is alive                           -> a second here, then ask the master
    slave    nothing found, no master                                       -> wait here, as at a master

All of it needs `slaveReadEnable`, on both; a slave without it serves nobody.

Source: `PullMessageProcessor#rejectRequest`, `#composeResponseHeader`, `DefaultPullMessageResultHandler`, RocketMQ 5.3.
"""

from __future__ import annotations

from typing import Final

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.ha.member_group import MemberGroup
from rocketmq_py.broker.read_policy import MASTER_ID, Direction
from rocketmq_py.broker.subscription_group import SubscriptionGroupManager
from rocketmq_py.remoting.codes import ResponseCode
from rocketmq_py.store.config import BrokerRole, MessageStoreConfig

REJECTED: Final = "[REJECTREQUEST]system busy, start flow control for a while"
#: What a group that is not in the table is taken to have: SubscriptionGroupConfig's defaults.
SLOW_READER_ID: Final = 1
#: How long a reader that finds nothing waits at a slave before it is sent to the master.
HOLD_MILLIS: Final = 1_000


class SlaveReads:
    """The read policy of a broker with replicas.

    Args:
        config: whether slaves serve reads.
        store_config: the role.
        groups: where each group wants to read.
        members: whether a master is alive.

    Attributes:
        is_plain: whether there is nothing to decide: a master whose slaves serve no reads. See `settings_changed`.
    """

    def __init__(
        self,
        config: BrokerConfig,
        store_config: MessageStoreConfig,
        groups: SubscriptionGroupManager,
        members: MemberGroup,
    ) -> None:
        self.is_plain = True
        self._config = config
        self._store_config = store_config
        self._groups = groups
        self._members = members
        self.settings_changed()

    def settings_changed(self) -> None:
        """Look at role and settings again."""
        self.is_plain = not self._is_slave and not self._config.slave_read_enable

    @property
    def _is_slave(self) -> bool:
        return self._store_config.broker_role is BrokerRole.SLAVE

    def refusal(self) -> str | None:
        """Refuse every read of a slave that shall serve none."""
        return REJECTED if self._is_slave and not self._config.slave_read_enable else None

    def direct(self, group: str, code: ResponseCode, is_slow: bool, may_hold: bool) -> Direction:
        """Return what the reader is answered, and whom it asks next; see the module's text."""
        suggested = self._suggested(group, is_slow)
        if not self._is_slave or code is ResponseCode.SUCCESS:
            back = self._is_slave and self._members.has_master and not is_slow
            return Direction(code, MASTER_ID if back else suggested)
        if code is ResponseCode.PULL_RETRY_IMMEDIATELY:
            return Direction(code, suggested)
        if self._members.has_master:
            # Differs from RocketMQ, which says "ask the master at once": a client whose route has no master yet would come
            # back to this broker as fast as it can, for half a minute.
            if may_hold:
                return Direction(ResponseCode.PULL_NOT_FOUND, MASTER_ID, HOLD_MILLIS)
            return Direction(ResponseCode.PULL_RETRY_IMMEDIATELY, MASTER_ID)
        if code is ResponseCode.PULL_OFFSET_MOVED and not self._store_config.offset_check_in_slave:
            # The reader may be ahead of what was copied: this broker does not say where it should go on. RocketMQ
            # answers "at once again" here too.
            return Direction(ResponseCode.PULL_NOT_FOUND, suggested)
        return Direction(code, suggested)

    def _suggested(self, group: str, is_slow: bool) -> int:
        if not self._config.slave_read_enable:
            return MASTER_ID
        known = self._groups.select(group)
        if is_slow:
            return known.which_broker_when_consume_slowly if known is not None else SLOW_READER_ID
        return known.broker_id if known is not None else MASTER_ID
