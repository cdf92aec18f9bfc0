"""Installs stage filter: tags and SQL92 on the broker, and bit maps in the extension of the consume queues."""

from __future__ import annotations

import os

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.broker.filter.bloom import BloomFilter
from rocketmq_py.broker.filter.calc_bit_map import BitMapDispatcher
from rocketmq_py.broker.filter.consumer_filter import ConsumerFilterManager
from rocketmq_py.broker.filter.message_filters import MessageFilters
from rocketmq_py.broker.filter.sql_compiler import SqlCompiler
from rocketmq_py.broker.subscriptions import Subscriptions
from rocketmq_py.remoting.bodies.subscription import SQL92, TAG
from rocketmq_py.store.consume_queue_ext import ConsumeQueueExtStore
from rocketmq_py.store.consume_queue_store import ConsumeQueueStore
from rocketmq_py.store.dispatch import Dispatchers

#: Seconds between two writes of the filter table, as in RocketMQ.
PERSIST_SECONDS = 10.0
#: Seconds between two flushes of the extensions.
FLUSH_SECONDS = 1.0


def install(kernel: Kernel) -> None:
    """Add the filters to the subscriptions and, if asked for, the extensions to the consume queues."""
    config, store_config, environment = kernel.config, kernel.store_config, kernel.environment
    bloom_filter = BloomFilter(config.max_error_rate_of_bloom_filter, config.expect_consumer_num_use_filter)
    store_config.bit_map_length_consume_queue_ext = bloom_filter.bits

    compiler = kernel.provide(SqlCompiler())
    filters = kernel.provide(
        ConsumerFilterManager(
            os.path.join(store_config.root_dir, "config"),
            environment,
            compiler,
            bloom_filter,
            config.filter_data_clean_time_span,
        )
    )
    kernel.tables.add(filters.table)

    async def persist() -> None:
        filters.clean()
        await filters.table.persist_soon()

    kernel.periodic.every(PERSIST_SECONDS, persist, "persist consumer filters")

    message_filters = kernel.provide(MessageFilters(compiler, filters, support_retry=config.filter_support_retry))
    subscriptions = kernel.get(Subscriptions)
    subscriptions.filters[TAG] = message_filters.by_tag
    subscriptions.filters[SQL92] = message_filters.by_sql92

    if store_config.enable_consume_queue_ext:
        _install_extensions(kernel, filters)


def _install_extensions(kernel: Kernel, filters: ConsumerFilterManager) -> None:
    store_config, environment = kernel.store_config, kernel.environment
    extensions = kernel.provide(
        ConsumeQueueExtStore(store_config.root_dir, store_config.mapped_file_size_consume_queue_ext, environment.files)
    )
    kernel.get(ConsumeQueueStore).extensions = extensions
    counted = filters if kernel.config.enable_calc_filter_bit_map else None
    kernel.get(Dispatchers).add(kernel.provide(BitMapDispatcher(extensions, counted)))

    async def flush() -> None:
        await environment.run_blocking(extensions.flush)

    kernel.periodic.every(FLUSH_SECONDS, flush, "flush consume queue extensions")
