"""Controllers in one loop, and brokers that only talk to them: what the labs of the controller play with."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from rocketmq_py.common.environment import Environment
from rocketmq_py.controller.broker_group import BrokerGroup
from rocketmq_py.controller.config import ControllerConfig
from rocketmq_py.controller.elect_policy import UNKNOWN_PROGRESS, BrokerProgress
from rocketmq_py.controller.server import Controller
from rocketmq_py.remoting.bodies.controller import SyncStateSet
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import decode_header, encode_header
from rocketmq_py.remoting.headers import controller as headers
from rocketmq_py.remoting.java_json import decode_body, encode_body
from rocketmq_py.remoting.processors import Processors, Request
from rocketmq_py.remoting.server import RemotingServer
from rocketmq_py.sim.environment import simulated_environment

CLUSTER = "LabCluster"
GROUP = "broker-a"


@dataclass
class Living:
    """A `Liveness` that a lab sets by hand.

    Attributes:
        active: the ids that are alive.
        unheard: the ids that nobody knows anything of yet; all others are gone.
        told: what brokers said of themselves.
    """

    active: set[int] = field(default_factory=set)
    unheard: set[int] = field(default_factory=set)
    told: dict[int, BrokerProgress] = field(default_factory=dict)

    def is_active(self, cluster_name: str, broker_name: str, broker_id: int) -> bool:
        """Whether it is among the active."""
        return cluster_name == CLUSTER and broker_id in self.active

    def is_gone(self, cluster_name: str, broker_name: str, broker_id: int) -> bool:
        """Whether it is in no list."""
        return broker_id not in self.active | self.unheard

    def progress(self, cluster_name: str, broker_name: str, broker_id: int) -> BrokerProgress:
        """What the lab says that it said."""
        return self.told.get(broker_id, UNKNOWN_PROGRESS)


class LabBroker:
    """A broker that does what a broker does towards controllers, and nothing else.

    Args:
        lab: where it lives.
        port: where it listens for notices; its address.

    Attributes:
        notices: what it was told of changed roles (1008).
    """

    def __init__(self, lab: ControllerLab, port: int) -> None:
        self.lab = lab
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self.broker_id = 0
        self.notices: list[tuple[headers.NotifyBrokerRoleChangedRequestHeader, list[int]]] = []
        self.client = RemotingClient(lab.environment.clock)
        processors = Processors()
        processors.register(RequestCode.NOTIFY_BROKER_ROLE_CHANGED, self._role_changed)
        self.server = RemotingServer(processors, lab.environment.clock, "127.0.0.1", port)

    def _role_changed(self, request: Request) -> None:
        header = decode_header(headers.NotifyBrokerRoleChangedRequestHeader, request.command.ext_fields)
        members = decode_body(request.command.body, SyncStateSet)
        assert members.sync_state_set_epoch == header.sync_state_set_epoch
        self.notices.append((header, members.sync_state_set))

    async def ask(
        self, code: int, header: msgspec.Struct, body: bytes = b"", *, at: Controller | None = None
    ) -> RemotingCommand:
        """Send one request to a controller, the first one of the lab if none is named."""
        command = RemotingCommand.create_request(code, encode_header(header), body)
        return await self.client.request((at or self.lab.controllers[0]).address, command, 3.0)

    async def join(self, *, at: Controller | None = None) -> int:
        """Take the next id and register; return the id."""
        offered = await self.ask(
            RequestCode.CONTROLLER_GET_NEXT_BROKER_ID,
            headers.GetNextBrokerIdRequestHeader(cluster_name=CLUSTER, broker_name=GROUP),
            at=at,
        )
        assert offered.code == 0, offered
        self.broker_id = int(offered.ext_fields["nextBrokerId"])
        applied = await self.apply_id(self.broker_id, at=at)
        assert applied.code == 0, applied
        registered = await self.register(at=at)
        assert registered.code == 0, registered
        return self.broker_id

    async def apply_id(self, broker_id: int, *, at: Controller | None = None) -> RemotingCommand:
        """Apply for an id (1013)."""
        header = headers.ApplyBrokerIdRequestHeader(
            cluster_name=CLUSTER,
            broker_name=GROUP,
            applied_broker_id=broker_id,
            register_check_code=f"{self.address};1700000000000",
        )
        return await self.ask(RequestCode.CONTROLLER_APPLY_BROKER_ID, header, at=at)

    async def register(self, *, at: Controller | None = None) -> RemotingCommand:
        """Register (1003)."""
        header = headers.RegisterBrokerToControllerRequestHeader(
            cluster_name=CLUSTER, broker_name=GROUP, broker_id=self.broker_id, broker_address=self.address
        )
        return await self.ask(RequestCode.CONTROLLER_REGISTER_BROKER, header, at=at)

    async def heartbeat(self, *, at: Controller | None = None, **fields: Any) -> RemotingCommand:
        """Send a heartbeat (904)."""
        header = headers.BrokerHeartbeatToControllerRequestHeader(
            cluster_name=CLUSTER, broker_addr=self.address, broker_name=GROUP, broker_id=self.broker_id, **fields
        )
        return await self.ask(RequestCode.BROKER_HEARTBEAT, header, at=at)

    async def elect(
        self, *, designate: bool = False, at: Controller | None = None, broker_id: int | None = None
    ) -> RemotingCommand:
        """Ask for an election (1002)."""
        header = headers.ElectMasterRequestHeader(
            cluster_name=CLUSTER,
            broker_name=GROUP,
            broker_id=self.broker_id if broker_id is None else broker_id,
            designate_elect=designate,
        )
        return await self.ask(RequestCode.CONTROLLER_ELECT_MASTER, header, at=at)

    async def alter(self, members: list[int], set_epoch: int, master_epoch: int = 1) -> RemotingCommand:
        """Report who is in sync (1001)."""
        header = headers.AlterSyncStateSetRequestHeader(
            broker_name=GROUP, master_broker_id=self.broker_id, master_epoch=master_epoch
        )
        body = encode_body(SyncStateSet(sync_state_set=members, sync_state_set_epoch=set_epoch))
        return await self.ask(RequestCode.CONTROLLER_ALTER_SYNC_STATE_SET, header, body)

    async def stop(self) -> None:
        """End, as a process does: connections close."""
        await self.client.close()
        await self.server.stop()


class ControllerLab:
    """Starts controllers and brokers, and stops them all at the end."""

    def __init__(self, folder: Path, environment: Environment) -> None:
        self.folder = folder
        self.environment = environment
        self.controllers: list[Controller] = []
        self._stack = contextlib.AsyncExitStack()

    async def controller(self, **settings: Any) -> Controller:
        """Start a controller."""
        settings.setdefault("controller_port", 0)
        settings.setdefault("controller_store_path", str(self.folder / "controllers"))
        controller = Controller(ControllerConfig(**settings), self.environment)
        await controller.start()
        self.controllers.append(controller)
        self._stack.push_async_callback(controller.stop)
        return controller

    async def broker(self, port: int) -> LabBroker:
        """Start a broker that listens, and is not known to any controller yet."""
        broker = LabBroker(self, port)
        await broker.server.serve()
        self._stack.push_async_callback(broker.stop)
        return broker

    def defer(self, stop: Callable[[], Awaitable[None]]) -> None:
        """Stop something with the lab."""
        self._stack.push_async_callback(stop)

    @property
    def group(self) -> BrokerGroup:
        """The broker group as the first controller knows it."""
        group = self.controllers[0].manager.machine.state.find(GROUP)
        assert group is not None
        return group

    async def close(self) -> None:
        """Stop everything."""
        await self._stack.aclose()


@contextlib.asynccontextmanager
async def controller_lab_in(folder: Path, environment: Environment) -> AsyncIterator[ControllerLab]:
    """A lab for the time of a `with` block."""
    lab = ControllerLab(folder, environment)
    try:
        yield lab
    finally:
        await lab.close()


def in_lab(test: Callable[[ControllerLab], Awaitable[None]]) -> Callable[[Path], Awaitable[None]]:
    """Give a test a lab of its own, with simulated time and network."""

    async def run(tmp_path: Path) -> None:
        async with controller_lab_in(tmp_path, simulated_environment()) as lab:
            await test(lab)

    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    run.__dict__.update(test.__dict__)
    return run
