"""Asking name servers and brokers about the cluster, and changing their settings.

Source: `DefaultMQAdminExtImpl`, RocketMQ 5.3.
"""

from __future__ import annotations

from rocketmq_py.client.errors import ClientError
from rocketmq_py.client.instance import MQClientInstance, checked
from rocketmq_py.common.config import parse_properties
from rocketmq_py.remoting.bodies.cluster import ClusterInfo
from rocketmq_py.remoting.bodies.kv_table import KVTable
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers import namesrv as headers
from rocketmq_py.remoting.java_json import decode_body


class ClusterAdmin:
    """Operations on clusters, brokers and name servers.

    All methods raise `BrokerResponseError` if a server refuses and `RemotingError` if one does not answer.

    Args:
        instance: connections; started.
    """

    def __init__(self, instance: MQClientInstance) -> None:
        self._instance = instance

    async def cluster_info(self) -> ClusterInfo:
        """Return all clusters and brokers that one name server knows."""
        response = await self._instance.name_server_request(
            RemotingCommand.create_request(RequestCode.GET_BROKER_CLUSTER_INFO)
        )
        return decode_body(checked(response, "the name server").body, ClusterInfo)

    async def masters(self, cluster: str) -> dict[str, str]:
        """Return broker name -> address of the masters of a cluster; names whose master is down are left out.

        Raises:
            ClientError: there is no such cluster.
        """
        info = await self.cluster_info()
        names = info.cluster_addr_table.get(cluster)
        if not names:
            known = ", ".join(sorted(info.cluster_addr_table)) or "none"
            raise ClientError(f"there is no cluster {cluster!r}; known clusters: {known}")
        masters = {name: info.broker_addr_table[name].master_addr for name in names if name in info.broker_addr_table}
        return {name: address for name, address in sorted(masters.items()) if address is not None}

    async def runtime_info(self, address: str) -> dict[str, str]:
        """Return what a broker tells of its state."""
        response = await self._instance.ask(address, RequestCode.GET_BROKER_RUNTIME_INFO)
        return decode_body(response.body, KVTable).table

    async def broker_config(self, address: str) -> dict[str, str]:
        """Return a broker's settings."""
        response = await self._instance.ask(address, RequestCode.GET_BROKER_CONFIG)
        return _parse(bytes(response.body), address)

    async def update_broker_config(self, address: str, settings: dict[str, str]) -> None:
        """Change settings of a running broker; all of them, or none if one is not changeable."""
        await self._instance.ask(address, RequestCode.UPDATE_BROKER_CONFIG, body=_format(settings))

    async def namesrv_config(self, address: str) -> dict[str, str]:
        """Return a name server's settings."""
        response = await self._instance.ask(address, RequestCode.GET_NAMESRV_CONFIG)
        return _parse(bytes(response.body), address)

    async def update_namesrv_config(self, settings: dict[str, str]) -> None:
        """Change settings of every name server."""
        await self._tell_all(RequestCode.UPDATE_NAMESRV_CONFIG, {}, _format(settings))

    async def put_kv(self, namespace: str, key: str, value: str) -> None:
        """Put a text at every name server."""
        header = headers.PutKVConfigRequestHeader(namespace=namespace, key=key, value=value)
        await self._tell_all(RequestCode.PUT_KV_CONFIG, encode_header(header))

    async def get_kv(self, namespace: str, key: str) -> str | None:
        """Return a text that one name server has."""
        header = headers.KVConfigRequestHeader(namespace=namespace, key=key)
        response = await self._instance.name_server_request(
            RemotingCommand.create_request(RequestCode.GET_KV_CONFIG, encode_header(header))
        )
        return checked(response, "the name server").ext_fields.get("value")

    async def delete_kv(self, namespace: str, key: str) -> None:
        """Delete a text at every name server."""
        header = headers.KVConfigRequestHeader(namespace=namespace, key=key)
        await self._tell_all(RequestCode.DELETE_KV_CONFIG, encode_header(header))

    async def wipe_write_permission(self, broker_name: str) -> None:
        """Let no producer choose a broker any more, at every name server."""
        header = headers.BrokerNameRequestHeader(broker_name=broker_name)
        await self._tell_all(RequestCode.WIPE_WRITE_PERM_OF_BROKER, encode_header(header))

    async def add_write_permission(self, broker_name: str) -> None:
        """Let producers choose a broker again, at every name server."""
        header = headers.BrokerNameRequestHeader(broker_name=broker_name)
        await self._tell_all(RequestCode.ADD_WRITE_PERM_OF_BROKER, encode_header(header))

    async def _tell_all(self, code: RequestCode, fields: dict[str, str], body: bytes = b"") -> None:
        instance = self._instance
        await instance.name_servers.request_all(code, fields, body, instance.api_timeout)


def _format(settings: dict[str, str]) -> bytes:
    return "".join(f"{key}={value}\n" for key, value in settings.items()).encode()


def _parse(text: bytes, address: str) -> dict[str, str]:
    settings = parse_properties(text.decode("utf-8"), f"settings of {address}")
    return {key: setting.value for key, setting in settings.items()}
