"""From the command line to typed settings: the file of `-c`, then `--set`, then options of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rocketmq_py.common.config import Setting, apply_properties, read_properties
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import ConfigError


def load_settings(environment: Environment, file: str | None, assignments: Sequence[str] | None, *configs: Any) -> None:
    """Apply a configuration file and `KEY=VALUE` words to dataclasses; what comes later wins.

    Raises:
        ConfigError: see `apply_properties`; nothing was set.
    """
    settings = read_properties(environment.files, file) if file else {}
    for assignment in assignments or ():
        name, separator, value = assignment.partition("=")
        if not separator or not name.strip():
            raise ConfigError(f"--set {assignment!r} is not KEY=VALUE")
        settings[name.strip()] = Setting(value.strip(), "--set")
    apply_properties(settings, *configs)
