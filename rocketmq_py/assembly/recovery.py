"""Stage 04: one process for one store, a start that finds out what is there, and what the next start needs to know."""

from __future__ import annotations

import os

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.store.block_checks import BlockChecks
from rocketmq_py.store.bookkeeping import FIRST_SYNC_SECONDS, WRITE_SECONDS, Bookkeeping
from rocketmq_py.store.checkpoint import StoreCheckpoint
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.derived_manifest import DerivedManifest
from rocketmq_py.store.disk_guard import DiskGuard
from rocketmq_py.store.flush import FlushService
from rocketmq_py.store.flushed_position import FlushedPosition
from rocketmq_py.store.lock_file import StoreLock
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.recovery import Recovery
from rocketmq_py.store.retention import FIRST_PASS_SECONDS, CleanCommitLogService
from rocketmq_py.store.run_state import RunState
from rocketmq_py.store.running_flags import RunningFlags
from rocketmq_py.store.scrub import STEP_SECONDS, Scrub
from rocketmq_py.store.tick import Tick


def install(kernel: Kernel) -> None:
    """Lock the store before it is opened, recover it by what the last run wrote down, and keep writing that down."""
    config, environment = kernel.store_config, kernel.environment
    files, root = environment.files, config.root_dir
    log, store = kernel.get(CommitLog), kernel.get(MessageStore)

    lock = kernel.provide(StoreLock(files, root))
    run_state = kernel.provide(RunState(files, root))
    checkpoint = kernel.provide(StoreCheckpoint(files, root))
    position = kernel.provide(FlushedPosition(files, root))
    manifest = kernel.provide(DerivedManifest(files, root))
    checks = kernel.provide(BlockChecks(files, root, log))
    log.observers += (checks, position)
    log.verify, log.is_verified = checks.verify, checks.is_verified

    recovery = kernel.provide(
        Recovery(
            environment,
            root,
            run_state=run_state,
            checkpoint=checkpoint,
            position=position,
            checks=checks,
            manifest=manifest,
            process_id=os.getpid(),
        )
    )
    store.before_load.append(lock.acquire)
    store.recover = recovery.recover

    bookkeeping = kernel.provide(
        Bookkeeping(
            environment,
            store,
            kernel.get(FlushService),
            recovery,
            run_state=run_state,
            lock=lock,
            checkpoint=checkpoint,
            position=position,
            checks=checks,
            manifest=manifest,
        )
    )
    kernel.periodic.every(WRITE_SECONDS, bookkeeping.write, "write positions and block checks")
    kernel.periodic.every(
        store.queues.flush.thorough_interval, bookkeeping.sync, "sync queues and manifest", delay=FIRST_SYNC_SECONDS
    )
    kernel.on_stopped.append(bookkeeping.finish)
    scrub = kernel.provide(Scrub(checks, environment))
    kernel.periodic.every(STEP_SECONDS, scrub.step, "scrub the log", delay=FIRST_PASS_SECONDS)
    _install_retention(kernel, bookkeeping)


def _install_retention(kernel: Kernel, bookkeeping: Bookkeeping) -> None:
    """Delete what has expired, and take no message while the disk is full."""
    config, environment = kernel.store_config, kernel.environment
    tick = kernel.get(Tick)
    flags = kernel.provide(RunningFlags())
    told: list[str] = []

    def flags_changed(changed: RunningFlags) -> None:
        # The text names numbers of the moment, and what is refused with one text must be accepted with the same.
        while told:
            tick.accept(told.pop())
        if not changed.is_writeable:
            told.append(changed.write_refusal)
            tick.refuse(changed.write_refusal)

    flags.listeners.append(flags_changed)
    guard = kernel.provide(DiskGuard(environment.files, config, flags))
    cleaning = kernel.provide(
        CleanCommitLogService(
            config,
            environment,
            kernel.get(MessageStore),
            guard,
            bookkeeping,
            kernel.get(FlushedPosition),
            kernel.get(BlockChecks),
        )
    )
    kernel.periodic.every(
        config.clean_resource_interval / 1000, cleaning.run, "delete expired files", delay=FIRST_PASS_SECONDS
    )
