"""`rmq-py cluster`: a whole cluster on this machine by one command, every server a process of its own."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from rocketmq_py.cli.local_cluster import LocalCluster
from rocketmq_py.cli.member_process import State
from rocketmq_py.cli.options import JsonOption, SetOption, VerboseOption
from rocketmq_py.cli.output import CliError, Exit, Output, printable, reporting
from rocketmq_py.cli.topology import Kind, Member, known_topologies, lay_out, parse_assignments, read_topology
from rocketmq_py.common.environment import system_environment

app = typer.Typer(no_args_is_help=True, help="Run a whole cluster on this machine, and take parts of it away.")

#: Signals that may be sent: to end a member at once or in order, to pause it and to let it go on.
SIGNALS = ("KILL", "TERM", "STOP", "CONT")
#: A base port of 0 is looked for among these: below the ports that systems give to outgoing connections, one of which
#: could take the port of a member that is stopped for a while.
SEARCHED_PORTS = range(20_000, 32_000, 120)

DirOption = Annotated[
    Path, typer.Option("--dir", help="Folder of the cluster: configuration, stores, logs.", show_default=False)
]
NameArgument = Annotated[str, typer.Argument(help="A member, such as broker-a; see `status`.", show_default=False)]


@app.command()
def up(
    topology: Annotated[
        str,
        typer.Argument(help=f"{', '.join(known_topologies())}; or the path of a folder of files.", show_default=False),
    ],
    directory: DirOption,
    base_port: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, help="First port; 0 for any; RocketMQ's own ports (9876, 10911) if not given."),
    ] = None,
    assignments: SetOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Start a cluster, or what is missing of the one in the folder, and wait until its brokers are registered."""
    output = Output(json, verbose)
    with reporting(output):
        cluster = _prepare(topology, _absolute(directory), base_port, assignments or [])
        with cluster.locked():
            asyncio.run(_start(cluster, [member.name for member in cluster.members], output))


def _prepare(topology: str, folder: Path, base_port: int | None, assignments: list[str]) -> LocalCluster:
    """Return the cluster of the folder; made if there is none, or if ports or settings are to change while nothing runs."""
    if (folder / "cluster.json").exists():
        cluster = LocalCluster.open(folder)
        if cluster.topology != _identity(topology):
            raise CliError(
                f"{folder} holds a cluster of topology {cluster.topology}, not {topology}",
                Exit.REFUSED,
                "Take another folder, or end that one (rmq-py cluster down) and delete its folder",
            )
        if base_port is None and not assignments:
            return cluster
        running = [member.name for member in cluster.members if cluster.process(member.name).pid is not None]
        if running:
            raise CliError(
                f"the cluster in {folder} runs ({', '.join(running)}); --base-port and --set would change it",
                Exit.REFUSED,
                f"End it first (rmq-py cluster down --dir {folder}), or leave them out to start what is stopped",
            )
    files = read_topology(topology, system_environment())
    wanted = parse_assignments(assignments)
    members = lay_out(files, folder, base_port, wanted)
    if base_port == 0:
        members = search_ports(lambda base: lay_out(files, folder, base, wanted))
    return LocalCluster.create(folder, _identity(topology), members)


def _identity(topology: str) -> str:
    return topology if topology in known_topologies() else str(_absolute(Path(topology)))


def _absolute(folder: Path) -> Path:
    return folder.expanduser().resolve()


def search_ports(laid_out: Callable[[int], list[Member]]) -> list[Member]:
    """Lay out with the first base port, from a place that differs between processes, whose ports all are free."""
    start = time.time_ns() // 1_000 % len(SEARCHED_PORTS)
    for index in range(len(SEARCHED_PORTS)):
        members = laid_out(SEARCHED_PORTS[(start + index) % len(SEARCHED_PORTS)])
        if all(_is_free(port) for member in members for port in member.ports):
            return members
    raise CliError("no range of free ports was found; give one with --base-port")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


async def _start(cluster: LocalCluster, names: list[str], output: Output) -> None:
    started = await cluster.start(names)
    await cluster.wait_until_registered()
    if output.as_json:
        output.json(
            {
                "namesrvAddr": cluster.namesrv_addr,
                "started": started,
                "members": {member.name: member.address for member in cluster.members},
            }
        )
        return
    for member in cluster.members:
        if member.name in names:
            what = "started" if member.name in started else cluster.process(member.name).state.value + " already"
            output.line(f"{member.name:<14} {member.address:<22} {what}")
    output.line(f"boot success: name servers {cluster.namesrv_addr}, files in {cluster.folder}")
    output.line(f"export NAMESRV_ADDR='{cluster.namesrv_addr}'")


@app.command()
def status(directory: DirOption, json: JsonOption = False) -> None:
    """Show every member: its role, whether it answers, where its log ends, and how far a slave is behind its master."""
    output = Output(json)
    with reporting(output):
        cluster = LocalCluster.open(_absolute(directory))
        found = asyncio.run(cluster.status())
        rows: list[dict[str, object]] = [
            {
                "name": member.name,
                "kind": member.kind,
                "brokerName": member.broker_name,
                "id": member.broker_id if member.kind == Kind.BROKER.value else None,
                "role": member.role or None,
                "address": member.address,
                "state": member.state,
                "pid": member.pid or None,
                "answers": member.is_answering,
                "logEnd": member.end if member.end >= 0 else None,
                "behind": member.behind if member.behind >= 0 else None,
                "inSync": member.is_in_sync,
            }
            for member in found
        ]
        columns = ("name", "role", "id", "address", "state", "answers", "logEnd", "behind", "inSync")
        if not json:
            rows = [{key: "-" if value is None else _word(value) for key, value in row.items()} for row in rows]
        output.rows(columns, rows)


def _word(value: object) -> object:
    return ("no", "yes")[value] if isinstance(value, bool) else value


@app.command()
def logs(
    directory: DirOption,
    names: Annotated[
        list[str] | None, typer.Argument(help="Members; all if none is named.", show_default=False)
    ] = None,
    lines: Annotated[int, typer.Option("--lines", min=1, max=100_000, help="So many last lines of each.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
) -> None:
    """Print what members said, each line with the name of its member."""
    with reporting(Output()):
        cluster = LocalCluster.open(_absolute(directory))
        chosen = [cluster.member(name).name for name in names] if names else [m.name for m in cluster.members]
        places = {name: _print_last(name, cluster.process(name).log_path, lines) for name in chosen}
        while follow:
            for name in chosen:
                places[name] = _print_from(name, cluster.process(name).log_path, places[name])
            time.sleep(0.2)


def _print_last(name: str, path: Path, count: int) -> int:
    data = path.read_bytes() if path.exists() else b""
    # A line that is not complete yet is for the next look.
    complete = data[: data.rfind(b"\n") + 1]
    _print_lines(name, complete.splitlines()[-count:])
    return len(complete)


def _print_from(name: str, path: Path, place: int) -> int:
    if not path.exists():
        return place
    with path.open("rb") as log:
        log.seek(place)
        data = log.read()
    complete = data[: data.rfind(b"\n") + 1]
    _print_lines(name, complete.splitlines())
    return place + len(complete)


def _print_lines(name: str, lines: list[bytes]) -> None:
    for line in lines:
        print(f"{name:<14} {printable(line.decode('utf-8', 'replace'))}", flush=True)


@app.command()
def kill(
    name: NameArgument,
    directory: DirOption,
    signal_name: Annotated[
        str, typer.Option("--signal", help="KILL ends it at once, TERM in order; STOP pauses it, CONT lets it go on.")
    ] = "KILL",
) -> None:
    """Take a member away: end or pause its process. `start` brings it back."""
    output = Output()
    with reporting(output):
        wanted = signal_name.upper().removeprefix("SIG")
        if wanted not in SIGNALS:
            raise CliError(f"--signal is {signal_name!r}; it is one of {', '.join(SIGNALS)}", Exit.USAGE)
        cluster = LocalCluster.open(_absolute(directory))
        member = cluster.member(name)
        with cluster.locked():
            output.line(asyncio.run(_signal(cluster, member.name, wanted)))


async def _signal(cluster: LocalCluster, name: str, wanted: str) -> str:
    process = cluster.process(name)
    pid = process.pid
    if pid is None:
        raise CliError(
            f"{name} does not run", Exit.NOT_FOUND, f"Start it: rmq-py cluster start {name} --dir {cluster.folder}"
        )
    if wanted == "KILL":
        await cluster.kill(name)
        return f"{name}: process {pid} was killed"
    if wanted == "TERM":
        await cluster.stop([name])
        return f"{name}: process {pid} was stopped"
    process.send(signal.Signals[f"SIG{wanted}"])
    return f"{name}: process {pid} is {(State.PAUSED if wanted == 'STOP' else State.RUNNING).value}"


@app.command()
def start(name: NameArgument, directory: DirOption, verbose: VerboseOption = False) -> None:
    """Bring a member back, with its store and its address."""
    output = Output(verbose=verbose)
    with reporting(output):
        cluster = LocalCluster.open(_absolute(directory))
        member = cluster.member(name)
        with cluster.locked():
            asyncio.run(_start(cluster, [member.name], output))


@app.command()
def down(directory: DirOption) -> None:
    """End all members. The folder stays: `up` goes on with it."""
    output = Output()
    with reporting(output):
        cluster = LocalCluster.open(_absolute(directory))
        with cluster.locked():
            ended = asyncio.run(cluster.stop([member.name for member in cluster.members]))
        output.line(f"stopped: {', '.join(ended) or 'nothing ran'}; the files stay in {cluster.folder}")
