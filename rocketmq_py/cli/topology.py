"""Topologies: folders of configuration files, one file for each process of a cluster, as in RocketMQ's `conf/2m-2s-sync`.

The files say what a process is to the others, and nothing about the machine it runs on. `lay_out` adds that for one
machine: ports, folders, and where the name servers and controllers are. It decides and touches nothing; a file that is
kept for a process is the file of the topology, with what was added below it. The last of equal keys wins, here and in Java.
"""

from __future__ import annotations

import enum
import importlib.resources
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rocketmq_py.cli.output import CliError, Exit
from rocketmq_py.cli.standalone import COMMIT_LOG_FILE_SIZE, PORT_STEP, TIMER_LOG_FILE_SIZE
from rocketmq_py.common.config import Setting, parse_properties, read_properties
from rocketmq_py.common.environment import Environment

LOOPBACK: Final = "127.0.0.1"
#: Ports without `--base-port`: those that clients try first.
NAMESRV_PORT, CONTROLLER_PORT, BROKER_PORT = 9876, 9878, 10911
#: With a base port: name servers there, controllers and brokers at these distances.
CONTROLLER_DISTANCE, BROKER_DISTANCE = 5, 12
#: So many processes of one kind fit between the ports of the next kind.
MAX_SERVERS = 5
MAX_BROKERS = 50
_SUFFIXES = (".properties", ".conf")
#: What ties a file to the machine that it was written for.
_OF_A_MACHINE = ("bindAddress", "brokerIP1", "brokerIP2")


class Kind(enum.Enum):
    """What a process is."""

    NAMESRV = "namesrv"
    CONTROLLER = "controller"
    BROKER = "broker"


@dataclass(frozen=True, slots=True)
class TopologyFile:
    """One file of a topology.

    Attributes:
        name: of the file without its suffix; the process is called so.
        kind: what it starts.
        text: as it stands in the file.
        settings: the same, parsed.
    """

    name: str
    kind: Kind
    text: str
    settings: Mapping[str, Setting]

    def get(self, key: str) -> str | None:
        """Return a value; None if the file does not have the key."""
        setting = self.settings.get(key)
        return setting.value if setting is not None else None


@dataclass(frozen=True, slots=True)
class Member:
    """One process of a cluster on this machine.

    Attributes:
        name, kind: of its file.
        address: where it listens.
        ports: all ports it binds, the main one first.
        broker_name: of a broker; else empty.
        broker_id: of a broker with a fixed role; -1 where a controller says it.
        text: its configuration file.
    """

    name: str
    kind: Kind
    address: str
    ports: tuple[int, ...]
    broker_name: str
    broker_id: int
    text: str

    @property
    def holds_controller(self) -> bool:
        """Whether a controller is in the process, alone or beside a name server; its port is the last one then."""
        return self.kind is Kind.CONTROLLER or (self.kind is Kind.NAMESRV and len(self.ports) > 1)


def known_topologies() -> list[str]:
    """Return the names of the topologies that come with the package."""
    return sorted(entry.name for entry in _package().iterdir() if entry.is_dir() and entry.name != "__pycache__")


def _package() -> Path:
    return Path(str(importlib.resources.files("rocketmq_py") / "topologies"))


def read_topology(name: str, environment: Environment) -> list[TopologyFile]:
    """Return the files of a topology: one of ours by its name, or a folder by its path.

    Raises:
        CliError: there is no such topology, or it holds no broker, or a file that starts nothing known.
        ConfigError: a file is not a property file.
    """
    folder = _package() / name
    if name not in known_topologies():
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise CliError(
                f"there is no topology {name!r}, and no folder of that name",
                Exit.NOT_FOUND,
                f"Topologies are {', '.join(known_topologies())}; or give the path of a folder of property files",
            )
    found = [path for path in folder.iterdir() if path.suffix in _SUFFIXES and path.is_file()]
    # By name without suffix: broker-a before broker-a-s.
    paths = sorted(found, key=lambda path: path.stem)
    files = [_read_file(path, environment) for path in paths]
    _check_files(files, folder)
    return files


def _read_file(path: Path, environment: Environment) -> TopologyFile:
    settings = read_properties(environment.files, str(path))
    name = path.stem
    if name.startswith("namesrv"):
        kind = Kind.NAMESRV
    elif name.startswith("controller"):
        kind = Kind.CONTROLLER
    elif "brokerName" in settings:
        kind = Kind.BROKER
    else:
        raise CliError(
            f"{path} starts nothing that is known: it sets no brokerName",
            next_step="Files of name servers are called namesrv*, those of controllers controller*; others are brokers'",
        )
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}", name) is None:
        raise CliError(f"{path}: the name of a file becomes that of a process; use letters, digits, '.', '_' and '-'")
    return TopologyFile(name, kind, path.read_text("utf-8-sig"), settings)


def _check_files(files: Sequence[TopologyFile], folder: Path) -> None:
    brokers = [file for file in files if file.kind is Kind.BROKER]
    if not brokers:
        raise CliError(
            f"{folder} holds no file of a broker",
            next_step=f"A broker's file ends in {' or '.join(_SUFFIXES)} and has at least brokerName=NAME",
        )
    seen: dict[str, str] = {}
    for file in files:
        if file.name in seen:
            raise CliError(f"{folder} has two files called {file.name}; a process needs a name of its own")
        seen[file.name] = file.name
    places: dict[tuple[str, str], str] = {}
    for file in brokers:
        if file.get("enableControllerMode") == "true":
            continue
        place = (file.get("brokerName") or "", file.get("brokerId") or "0")
        if place in places:
            raise CliError(
                f"{places[place]} and {file.name} both are broker {place[0]} with id {place[1]}",
                next_step="Give one of them another brokerName or brokerId: a master has 0, its slaves 1, 2 ...",
            )
        places[place] = file.name
    for kind, limit in ((Kind.NAMESRV, MAX_SERVERS), (Kind.CONTROLLER, MAX_SERVERS), (Kind.BROKER, MAX_BROKERS)):
        count = sum(file.kind is kind for file in files)
        if count > limit:
            raise CliError(f"{folder} has {count} files of kind {kind.value}; one machine takes {limit}")


@dataclass(frozen=True, slots=True)
class _Ports:
    """The main port of every process, by its name, and what follows from them."""

    namesrvs: Mapping[str, int]
    controllers: Mapping[str, int]
    brokers: Mapping[str, int]
    #: Controller's process -> its id among the controllers.
    ids: Mapping[str, str]

    @property
    def namesrv_addr(self) -> str:
        return ";".join(f"{LOOPBACK}:{port}" for port in self.namesrvs.values())

    @property
    def controller_addr(self) -> str:
        return ";".join(f"{LOOPBACK}:{port}" for port in self.controllers.values())

    @property
    def peers(self) -> str:
        return ";".join(f"{self.ids[name]}-{LOOPBACK}:{port}" for name, port in self.controllers.items())


def lay_out(
    files: Sequence[TopologyFile], folder: Path, base_port: int | None, assignments: Mapping[str, str]
) -> list[Member]:
    """Return the processes in the order of their start, with ports and folders for this machine.

    Args:
        files: the topology; without a file of a name server it gets one with RocketMQ's defaults.
        folder: of the cluster; each process gets one in it.
        base_port: first port; None: RocketMQ's ports.
        assignments: settings of every broker, which beat those of the files.

    Raises:
        CliError: a port would be above 65,535.
    """
    servers = [file for file in files if file.kind is Kind.NAMESRV] or [TopologyFile("namesrv", Kind.NAMESRV, "", {})]
    alone = [file for file in files if file.kind is Kind.CONTROLLER]
    brokers = [file for file in files if file.kind is Kind.BROKER]
    ports = _choose_ports(servers, [*alone, *(file for file in servers if _holds_controller(file))], brokers, base_port)
    return [
        *(_server(file, folder, ports) for file in [*alone, *servers]),
        *(_broker(file, folder, ports, assignments) for file in brokers),
    ]


def _choose_ports(
    servers: Sequence[TopologyFile],
    controllers: Sequence[TopologyFile],
    brokers: Sequence[TopologyFile],
    base_port: int | None,
) -> _Ports:
    base = NAMESRV_PORT if base_port is None else base_port
    first_broker = BROKER_PORT if base_port is None else base_port + BROKER_DISTANCE
    is_usual = base_port is None and base + len(servers) <= CONTROLLER_PORT
    first_controller = CONTROLLER_PORT if is_usual else base + CONTROLLER_DISTANCE
    if first_broker + len(brokers) * PORT_STEP > 65_535:
        raise CliError(f"--base-port {base} leaves too few ports below 65536 for {len(brokers)} brokers", Exit.USAGE)
    return _Ports(
        {file.name: base + index for index, file in enumerate(servers)},
        {file.name: first_controller + index for index, file in enumerate(controllers)},
        {file.name: first_broker + index * PORT_STEP for index, file in enumerate(brokers)},
        {file.name: file.get("controllerDLegerSelfId") or f"n{index}" for index, file in enumerate(controllers)},
    )


def _server(file: TopologyFile, folder: Path, ports: _Ports) -> Member:
    """A name server, a controller, or both in one process."""
    added, own = {"bindAddress": LOOPBACK}, []
    if file.kind is Kind.NAMESRV:
        own.append(ports.namesrvs[file.name])
        added |= {"listenPort": str(own[0]), "kvConfigPath": str(folder / file.name / "kvConfig.json")}
    if file.name in ports.controllers:
        own.append(ports.controllers[file.name])
        added |= {
            "controllerDLegerSelfId": ports.ids[file.name],
            "controllerDLegerPeers": ports.peers,
            "controllerStorePath": str(folder / file.name / "controller"),
        }
    return Member(file.name, file.kind, f"{LOOPBACK}:{own[0]}", tuple(own), "", 0, _joined(file, added))


def _broker(file: TopologyFile, folder: Path, ports: _Ports, assignments: Mapping[str, str]) -> Member:
    port, store = ports.brokers[file.name], folder / file.name / "store"
    added = dict.fromkeys(_OF_A_MACHINE, LOOPBACK) | {
        "listenPort": str(port),
        "haListenPort": str(port + 1),
        "namesrvAddr": ports.namesrv_addr,
        "storePathRootDir": str(store),
        "storePathCommitLog": str(store / "commitlog"),
    }
    if ports.controllers:
        added["controllerAddr"] = ports.controller_addr
    if file.get("haMasterAddress"):
        # The machine that it names is not this one: the name servers know where the master is.
        added["haMasterAddress"] = ""
    # As with `standalone`: RocketMQ's gigabyte at a time is for machines that do nothing else.
    for key, size in (
        ("mappedFileSizeCommitLog", COMMIT_LOG_FILE_SIZE),
        ("mappedFileSizeTimerLog", TIMER_LOG_FILE_SIZE),
    ):
        if file.get(key) is None:
            added[key] = str(size)
    is_controlled = file.get("enableControllerMode") == "true"
    return Member(
        file.name,
        Kind.BROKER,
        f"{LOOPBACK}:{port}",
        (port, port + 1),
        file.get("brokerName") or "",
        -1 if is_controlled else int(file.get("brokerId") or 0),
        _joined(file, {**added, **assignments}),
    )


def _holds_controller(file: TopologyFile) -> bool:
    return file.kind is Kind.NAMESRV and file.get("enableControllerInNamesrv") == "true"


def _joined(file: TopologyFile, added: Mapping[str, str]) -> str:
    lines = "".join(f"{key}={value}\n" for key, value in added.items())
    text = file.text if not file.text or file.text.endswith("\n") else file.text + "\n"
    return f"{text}\n# Added by `rmq-py cluster up` for this machine.\n{lines}"


def parse_assignments(words: Sequence[str]) -> dict[str, str]:
    """Return `--set KEY=VALUE` words as a mapping.

    Raises:
        ConfigError: a word is not KEY=VALUE.
    """
    result: dict[str, str] = {}
    for word in words:
        result |= {key: setting.value for key, setting in parse_properties(word, "--set").items()}
    return result
