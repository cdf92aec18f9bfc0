"""`rmq-py standalone`: a name server and brokers for a laptop or a test run, by one command."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.cli.broker import warn_about_addresses
from rocketmq_py.cli.options import SetOption, VerboseOption
from rocketmq_py.cli.output import CliError, Output, reporting
from rocketmq_py.cli.process import run_event_loop, serve_until_signal, set_up_logging
from rocketmq_py.cli.settings import load_settings
from rocketmq_py.common.environment import Environment, system_environment
from rocketmq_py.common.host import join_address
from rocketmq_py.common.tls_settings import TlsSettings
from rocketmq_py.namesrv.config import NamesrvConfig
from rocketmq_py.namesrv.server import Namesrv
from rocketmq_py.remoting.server import PortInUseError
from rocketmq_py.store.config import MessageStoreConfig

app = typer.Typer(invoke_without_command=True)

#: Smaller files than a production broker's: laptops, memory file systems, CI.
COMMIT_LOG_FILE_SIZE = 64 << 20
TIMER_LOG_FILE_SIZE = 8 << 20
#: Distance between the ports of two brokers; a broker also owns its port - 2 and + 1.
PORT_STEP = 10


def local_address(namesrv: Namesrv) -> str:
    """Return where brokers on this machine reach the name server."""
    is_everywhere = namesrv.config.bind_address in ("0.0.0.0", "::")
    return join_address("127.0.0.1" if is_everywhere else namesrv.config.bind_address, namesrv.port)


class Standalone:
    """A name server and one broker on one event loop."""

    def __init__(self, namesrv: Namesrv, config: BrokerConfig, store: MessageStoreConfig, environment: Environment):
        self.namesrv = namesrv
        self._config = config
        self._store_config = store
        self._environment = environment
        self.broker: Kernel | None = None

    async def start(self) -> None:
        """Start the name server first: the broker registers there."""
        await self.namesrv.start()
        try:
            self._config.namesrv_addr = local_address(self.namesrv)
            self.broker = build_broker(self._config, self._store_config, self._environment)
            await self.broker.start()
        except BaseException:
            await self.namesrv.stop()
            raise

    @property
    def addresses(self) -> list[str]:
        """What clients are told."""
        return [self._config.broker_address]

    async def stop(self) -> None:
        """Stop the broker, then the name server."""
        if self.broker is not None:
            await self.broker.stop()
        await self.namesrv.stop()


class Processes:
    """A name server here and brokers as processes of their own, one per core."""

    def __init__(self, namesrv: Namesrv, commands: list[list[str]]) -> None:
        self.namesrv = namesrv
        self._commands = commands
        self._brokers: list[asyncio.subprocess.Process] = []
        #: What clients are told, as the brokers announced it.
        self.addresses: list[str] = []

    async def start(self) -> None:
        """Return when every broker has announced that it serves.

        Raises:
            CliError: a broker ended before that; the others were stopped.
        """
        await self.namesrv.start()
        try:
            for command in self._commands:
                arguments = [*command, "--namesrv", local_address(self.namesrv)]
                process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
                self._brokers.append(process)
            for process in self._brokers:
                await self._wait_until_it_serves(process)
        except BaseException:
            await self.stop()
            raise

    async def _wait_until_it_serves(self, process: asyncio.subprocess.Process) -> None:
        if process.stdout is None:
            raise CliError("a broker process has no output to wait for")
        line = await process.stdout.readline()
        if b"boot success" not in line:
            status = await process.wait()
            raise CliError(f"a broker process ended with status {status} before it served; its messages are above")
        found = re.search(r"broker\[[^,]*, ([^\]]+)\] boot success", line.decode("utf-8", "replace"))
        self.addresses.append(found[1] if found else "?")

    async def stop(self) -> None:
        """Stop all brokers at the same time, then the name server."""
        running = [process for process in self._brokers if process.returncode is None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            await process.wait()
        await self.namesrv.stop()


@app.callback()
def standalone(
    brokers: Annotated[int, typer.Option(min=1, max=64, help="Broker processes; 1 runs in this process.")] = 1,
    store: Annotated[
        Path | None, typer.Option(help="Folder of the files; ~/.rocketmq_py/standalone if not given.")
    ] = None,
    namesrv_port: Annotated[int, typer.Option(min=0, max=65_535, help="Port of the name server.")] = 9876,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port of the first broker.")] = 10911,
    assignments: SetOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Run name server and broker until SIGTERM or Ctrl-C."""
    folder = (store or Path.home() / ".rocketmq_py" / "standalone").expanduser().resolve()
    with reporting(Output(verbose=verbose)):
        set_up_logging(verbose)
        environment = system_environment()
        config, store_config = BrokerConfig(listen_port=port), MessageStoreConfig()
        store_config.mapped_file_size_commit_log = COMMIT_LOG_FILE_SIZE
        store_config.mapped_file_size_timer_log = TIMER_LOG_FILE_SIZE
        store_config.store_path_root_dir = str(folder / config.broker_name)
        load_settings(environment, None, assignments, config, store_config)
        # Whoever opens the broker to other machines needs the name server there, too.
        namesrv_config = NamesrvConfig(
            bind_address=config.bind_address,
            listen_port=namesrv_port,
            kv_config_path=str(folder / "namesrv/kvConfig.json"),
            **{field.name: getattr(config, field.name) for field in fields(TlsSettings)},
        )

        async def main() -> None:
            namesrv = Namesrv(namesrv_config, environment)
            if brokers == 1:
                warn_about_addresses(config)
                service: Standalone | Processes = Standalone(namesrv, config, store_config, environment)
            else:
                service = Processes(namesrv, [_command(index, port, folder, assignments) for index in range(brokers)])
            await serve_until_signal(
                service,
                lambda: (
                    f"boot success: name server {local_address(namesrv)}, "
                    f"{_plural('broker', service.addresses)} {', '.join(service.addresses)}, files in {folder}"
                ),
            )

        try:
            run_event_loop(main)
        except PortInUseError as error:
            raise CliError(str(error), next_step="Ports are given with --namesrv-port and --port; 0 is any") from error


def _plural(word: str, things: list[str]) -> str:
    return word if len(things) == 1 else f"{word}s"


def _command(index: int, port: int, folder: Path, assignments: list[str] | None) -> list[str]:
    name = f"broker-{chr(ord('a') + index)}" if index < 26 else f"broker-{index}"
    settings = [
        f"brokerName={name}",
        f"listenPort={port + index * PORT_STEP if port else 0}",
        f"storePathRootDir={folder / name}",
        f"mappedFileSizeCommitLog={COMMIT_LOG_FILE_SIZE}",
        f"mappedFileSizeTimerLog={TIMER_LOG_FILE_SIZE}",
        *(assignments or ()),
    ]
    options = [word for setting in settings for word in ("--set", setting)]
    return [sys.executable, "-m", "rocketmq_py.cli.main", "broker", "start", *options]
