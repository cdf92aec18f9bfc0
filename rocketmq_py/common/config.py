"""Configuration: RocketMQ's property files, read strictly into typed dataclasses.

A file has lines `key=value`; `#` and `!` begin comment lines. Keys are RocketMQ's (`flushDiskType`) or the field's name
(`flush_disk_type`). One file usually serves several parts of a process, so `apply_properties` takes several dataclasses
and gives each key to the one that has it. A key that RocketMQ knows and this project does not use is accepted with a
warning; any other unknown key is refused with the nearest known one.

Source: `MixAll#properties2Object`, RocketMQ 5.3, which ignores what it does not know.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import importlib.resources
import json
import logging
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from rocketmq_py.common.errors import ConfigError, InvalidInputError
from rocketmq_py.common.file_system import FileSystem
from rocketmq_py.common.java import parse_i64

logger = logging.getLogger(__name__)

#: Largest configuration file that is read.
MAX_FILE_SIZE = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One value as text, and where it was written: `broker.conf line 3` or `--set`."""

    value: str
    place: str


#: What is shown of a secret that is set.
HIDDEN = "********"


def key(name: str, default: Any, *, is_secret: bool = False) -> Any:
    """Declare a dataclass field whose RocketMQ key is not the camel case of its name, such as `brokerIP1`.

    Args:
        name: the key.
        default: an immutable value.
        is_secret: the value is never shown.
    """
    if isinstance(default, (list, dict, set)):
        raise TypeError("a configuration default must be immutable")
    return dataclasses.field(default=default, metadata={"key": name, "is_secret": is_secret})


def to_camel(name: str) -> str:
    """Return `flushDiskType` for `flush_disk_type`."""
    return re.sub(r"_([a-z0-9])", lambda match: match.group(1).upper(), name)


def key_of(field: dataclasses.Field[Any]) -> str:
    """Return the RocketMQ key of a dataclass field."""
    return str(field.metadata.get("key") or to_camel(field.name))


def read_properties(files: FileSystem, path: str) -> dict[str, Setting]:
    """Read a configuration file.

    Raises:
        ConfigError: it is missing, too large, not UTF-8, or a line is not `key=value`.
    """
    try:
        data = files.read_file(path) if not files.is_directory(path) else None
    except OSError as error:
        raise ConfigError(f"configuration file {path} cannot be read: {error.strerror}") from None
    if data is None:
        raise ConfigError(f"configuration file {path} is a directory; name the file, such as {path}/broker.conf")
    if len(data) > MAX_FILE_SIZE:
        raise ConfigError(f"configuration file {path} has {len(data)} bytes; at most {MAX_FILE_SIZE} are read")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"configuration file {path} is not UTF-8: byte {error.start} is {data[error.start]:#x}"
        ) from None
    return parse_properties(text, path)


def parse_properties(text: str, place: str) -> dict[str, Setting]:
    """Parse the text of a configuration file; the last of equal keys wins. See `read_properties`."""
    result: dict[str, Setting] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line[0] in "#!":
            continue
        name, separator, value = line.partition("=")
        if not separator or not name.strip():
            raise ConfigError(f"{place} line {number}: {line[:80]!r} is not KEY=VALUE")
        if "\0" in line:
            raise ConfigError(f"{place} line {number}: the line holds a NUL byte")
        result[name.strip()] = Setting(value.strip(), f"{place} line {number}")
    return result


def apply_properties(settings: Mapping[str, Setting], *configs: Any, lenient: bool = False) -> None:
    """Set the fields of several dataclasses from settings; nothing is set if any setting is refused.

    Args:
        settings: key to value, from `parse_properties` or the command line.
        configs: dataclass objects; a key that several have goes to all of them.
        lenient: warn about unknown keys instead of refusing them.

    Raises:
        ConfigError: an unknown key, or a value that the field cannot take.
    """
    fields = [(config, field) for config in configs for field in dataclasses.fields(config)]
    by_key: dict[str, list[tuple[Any, dataclasses.Field[Any]]]] = {}
    for config, field in fields:
        for name in {key_of(field), field.name}:
            by_key.setdefault(name, []).append((config, field))
    changes: list[tuple[Any, str, Any]] = []
    for name, setting in settings.items():
        if name in by_key:
            for config, field in by_key[name]:
                changes.append((config, field.name, parse_value(name, setting, _type_of(config, field))))
        elif name in _keys_of_rocketmq():
            logger.warning("%s: %s is a setting of RocketMQ that has no effect here", setting.place, name)
        elif lenient:
            logger.warning("%s: unknown setting %s was ignored", setting.place, name)
        else:
            raise ConfigError(_unknown_key(name, setting, by_key))
    for config, field_name, value in changes:
        setattr(config, field_name, value)


def _unknown_key(name: str, setting: Setting, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, [*known, *_keys_of_rocketmq()], n=1, cutoff=0.6)
    hint = f"did you mean {nearest[0]}?" if nearest else "see the list of settings in the documentation"
    return f"{setting.place}: unknown setting {name!r}; {hint}"


def parse_value(name: str, setting: Setting, kind: Any) -> Any:
    """Return the typed value of a setting.

    Raises:
        ConfigError: with the place, the text and what was expected.
    """
    text = setting.value
    try:
        return _parse(name, text, kind)
    except InvalidInputError as error:
        comment = " (a comment needs a line of its own)" if "#" in text else ""
        raise ConfigError(f"{setting.place}: {error}{comment}") from None


def _parse(name: str, text: str, kind: Any) -> Any:
    if isinstance(kind, types.UnionType):
        kind = next(option for option in typing.get_args(kind) if option is not type(None))
        if not text:
            return None
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise InvalidInputError(f"{name} is {text!r}; write true or false")
        return text.lower() == "true"
    if kind is int:
        value = parse_i64(text, name)
        if name.lower().endswith("port") and not 0 <= value <= 65_535:
            raise InvalidInputError(f"{name} is {value}; a port is a number from 0 to 65535")
        return value
    if kind is float:
        return _parse_float(name, text)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        choices = {str(option.value): option for option in kind}
        if text not in choices:
            raise InvalidInputError(f"{name} is {text!r}; it is one of {', '.join(choices)}")
        return choices[text]
    return text


def _parse_float(name: str, text: str) -> float:
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text, re.ASCII) is None:
        raise InvalidInputError(f"{name} is {text!r}, which is not a decimal number such as 0.8")
    return float(text)


def _type_of(config: Any, field: dataclasses.Field[Any]) -> Any:
    return typing.get_type_hints(type(config))[field.name]


def to_properties(config: Any) -> dict[str, str]:
    """Return RocketMQ's keys and texts of a dataclass, as GET_BROKER_CONFIG and `explain` print them."""
    return {key_of(field): _shown(field, getattr(config, field.name)) for field in dataclasses.fields(config)}


def _shown(field: dataclasses.Field[Any], value: Any) -> str:
    if field.metadata.get("is_secret") and value:
        return HIDDEN
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value.value if isinstance(value, enum.Enum) else value)


@functools.cache
def _keys_of_rocketmq() -> frozenset[str]:
    text = importlib.resources.files("rocketmq_py.common").joinpath("rocketmq_keys.json").read_text("utf-8")
    return frozenset(name for names in json.loads(text).values() for name in names)
