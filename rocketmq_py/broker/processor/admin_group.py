"""What operators ask a broker about the configurations of consumer groups.

Source: `AdminBrokerProcessor`, RocketMQ 5.3.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import msgspec

from rocketmq_py.broker.consumer_offset import ConsumerOffsetManager
from rocketmq_py.broker.statistics import BrokerStatsManager
from rocketmq_py.broker.subscription_group import SubscriptionGroupManager
from rocketmq_py.common.data_version import DataVersion
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.bodies.subscription_group import (
    GroupForbidden,
    SubscriptionGroupConfig,
    SubscriptionGroupList,
)
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.headers import admin_consumer as headers
from rocketmq_py.remoting.java_json import decode_body, encode_body
from rocketmq_py.remoting.processors import Processors, Request


class AdminGroupProcessor:
    """Reads and changes the table of groups; a change is answered when it is on disk."""

    def __init__(
        self, groups: SubscriptionGroupManager, offsets: ConsumerOffsetManager, statistics: BrokerStatsManager
    ) -> None:
        self._groups = groups
        self._offsets = offsets
        self._statistics = statistics

    def install(self, processors: Processors) -> None:
        """Register every handler."""
        for code, handler in (
            (RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, self.update_group),
            (RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST, self.update_group_list),
            (RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG, self.get_all_groups),
            (RequestCode.GET_SUBSCRIPTIONGROUP_CONFIG, self.get_group),
            (RequestCode.DELETE_SUBSCRIPTIONGROUP, self.delete_group),
            (RequestCode.UPDATE_AND_GET_GROUP_FORBIDDEN, self.update_forbidden),
        ):
            processors.register(code, handler, "admin")

    async def update_group(self, request: Request) -> RemotingCommand:
        """Create or replace one group (200)."""
        return await self._update([decode_body(request.command.body, SubscriptionGroupConfig)])

    async def update_group_list(self, request: Request) -> RemotingCommand:
        """Create or replace several groups; all of them or none (225)."""
        return await self._update(decode_body(request.command.body, SubscriptionGroupList).group_config_list)

    async def _update(self, configs: Iterable[SubscriptionGroupConfig]) -> RemotingCommand:
        try:
            self._groups.update(configs)
        except InvalidInputError as error:
            return answer(ResponseCode.INVALID_PARAMETER, str(error))
        await self._groups.persist()
        return answer()

    def get_all_groups(self, request: Request) -> RemotingCommand:
        """Return all groups, or a page of them (201)."""
        header = decode_header(headers.GetAllSubscriptionGroupRequestHeader, request.command.ext_fields)
        wrapper = self._groups.to_wrapper()
        total = len(wrapper.subscription_group_table)
        if header.group_seq is not None:
            version = decode_body(header.data_version.encode(), DataVersion) if header.data_version else None
            first = max(0, header.group_seq) if version == self._groups.data_version else 0
            size = max(0, total if header.max_group_num is None else header.max_group_num)
            page = dict(itertools.islice(wrapper.subscription_group_table.items(), first, first + size))
            wrapper = msgspec.structs.replace(wrapper, subscription_group_table=page)
        response = answer(body=encode_body(wrapper))
        response.ext_fields = {"totalGroupNum": str(total)}
        return response

    def get_group(self, request: Request) -> RemotingCommand:
        """Return one group (352); like every look-up it creates the group where that is allowed."""
        group = decode_header(headers.GetSubscriptionGroupConfigRequestHeader, request.command.ext_fields).group
        config = self._groups.find(group)
        if config is None:
            return answer(ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, f"No group in this broker. group: {group}")
        return answer(body=encode_body(config))

    async def delete_group(self, request: Request) -> RemotingCommand:
        """Remove a group, with its progress if that is asked for (207)."""
        header = decode_header(headers.DeleteSubscriptionGroupRequestHeader, request.command.ext_fields)
        self._groups.delete(header.group_name)
        if header.clean_offset or header.remove_offset:
            self._offsets.drop_group(header.group_name)
        self._statistics.drop_group(header.group_name)
        await self._groups.persist()
        return answer()

    async def update_forbidden(self, request: Request) -> RemotingCommand:
        """Allow or forbid a group to read a topic, or tell which it is (353)."""
        header = decode_header(headers.UpdateGroupForbiddenRequestHeader, request.command.ext_fields)
        if header.readable is not None:
            self._groups.set_readable(header.group, header.topic, header.readable)
            await self._groups.persist()
        readable = not self._groups.is_forbidden(header.group, header.topic)
        return answer(body=encode_body(GroupForbidden(group=header.group, topic=header.topic, readable=readable)))
