"""The JSON that Java writes: read all of it, write the part of it that everyone can read.

Bodies of RocketMQ come from Java's fastjson, whose output is not always JSON:

    {0:"10.0.0.1:10911"}                            numbers as keys, without quotes
    {{"brokerName":"b","queueId":0,"topic":"T"}:5}  objects as keys
    {"a":{"x":1},"b":{"$ref":"$.a"}}                a second appearance of one object is a reference

`to_standard_json` rewrites all three: number keys get quotes, an object key becomes a string that holds its JSON
text, a reference becomes what it refers to. Typed decoding then is msgspec's work. We write standard JSON, which
fastjson reads, except for maps whose keys are objects: those have no standard form that every client knows.

Source: `RemotingSerializable`, RocketMQ 5.3, and the behaviour of fastjson 1.2.83.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, TypeVar

import msgspec

from rocketmq_py.common.errors import InvalidInputError

T = TypeVar("T")

#: Deepest nesting that is read; RocketMQ's own bodies have at most eight levels.
MAX_DEPTH: Final = 64
#: Most values (numbers, texts, objects ...) that a body may hold.
MAX_VALUES: Final = 2_000_000

_BLANKS = re.compile(r"[ \t\r\n]*")
_SCALAR = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"', re.DOTALL)
_STEP = re.compile(r"\.((?:[^.\[\\]|\\.)+)|\[([0-9]+)\]")
_REFERENCE: Final = "$ref"


def decode_body(data: bytes | bytearray | memoryview, kind: type[T]) -> T:
    """Decode a body into a struct type; numbers and booleans may also come as text, as fastjson accepts them.

    Raises:
        InvalidInputError: it is neither JSON nor what Java writes, or does not fit the type.
    """
    raw = bytes(data)
    if b'"$ref"' not in raw:
        try:
            return msgspec.json.decode(raw, type=kind, strict=False)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            first_error = error
        try:
            rewritten = to_standard_json(raw)
        except InvalidInputError:
            # The rewriting reader knows nothing of types; what msgspec had to say is nearer to the fault.
            raise InvalidInputError(f"body is not a {kind.__name__}: {first_error}") from None
    else:
        rewritten = to_standard_json(raw)
    try:
        return msgspec.json.decode(rewritten, type=kind, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"body is not a {kind.__name__}: {error}") from None


def encode_body(value: Any) -> bytes:
    """Encode a struct as compact standard JSON; number keys are quoted."""
    return msgspec.json.encode(value)


def encode_object_map(entries: Iterable[tuple[Any, Any]]) -> msgspec.Raw:
    """Encode a map whose keys are objects (mostly message queues) as Java does: `{{...}:...,{...}:...}`.

    The result is no JSON; it is put into a struct or dictionary that `encode_body` encodes.
    """
    parts = [msgspec.json.encode(key) + b":" + msgspec.json.encode(value) for key, value in entries]
    return msgspec.Raw(b"{" + b",".join(parts) + b"}")


def to_standard_json(data: bytes) -> bytes:
    """Rewrite what Java wrote as standard JSON.

    Raises:
        InvalidInputError: it is not even that; the text says at which character.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"body is not UTF-8: byte {error.start} is {data[error.start]:#04x}") from None
    reader = _Reader(text)
    value = reader.read_all()
    return msgspec.json.encode(_Resolver(value).resolve(value, [], 0))


class _Reader:
    """Reads one value by descent; every method leaves `at` behind what it read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def read_all(self) -> Any:
        value = self._value(0)
        self._skip_blanks()
        if self.at != len(self.text):
            raise self._error("the end")
        return value

    def _value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise InvalidInputError(f"body is nested more than {MAX_DEPTH} deep")
        self._skip_blanks()
        first = self.text[self.at : self.at + 1]
        if first == "{":
            return self._object(depth)
        if first == "[":
            return self._array(depth)
        if first == '"':
            return self._string()
        match = _SCALAR.match(self.text, self.at)
        if match is None:
            raise self._error("a value")
        self.at = match.end()
        return msgspec.json.decode(match[0].encode())

    def _object(self, depth: int) -> dict[Any, Any]:
        self.at += 1
        result: dict[Any, Any] = {}
        while not self._take("}"):
            if result:
                self._expect(",")
            key = self._value(depth + 1)
            self._expect(":")
            # References are resolved later, so a key that is one stays an object until then.
            hashable = key if isinstance(key, str) else _ObjectKey(key) if isinstance(key, dict) else str(key)
            result[hashable] = self._value(depth + 1)
        return result

    def _array(self, depth: int) -> list[Any]:
        self.at += 1
        result: list[Any] = []
        while not self._take("]"):
            if result:
                self._expect(",")
            result.append(self._value(depth + 1))
        return result

    def _string(self) -> str:
        match = _STRING.match(self.text, self.at)
        if match is None:
            raise self._error("a closed string")
        self.at = match.end()
        try:
            return msgspec.json.decode(match[0].encode(), type=str)
        except (msgspec.DecodeError, UnicodeEncodeError) as error:
            raise InvalidInputError(f"body has a bad string before character {self.at}: {error}") from None

    def _skip_blanks(self) -> None:
        match = _BLANKS.match(self.text, self.at)
        assert match is not None
        self.at = match.end()

    def _take(self, mark: str) -> bool:
        self._skip_blanks()
        if self.text.startswith(mark, self.at):
            self.at += 1
            return True
        return False

    def _expect(self, mark: str) -> None:
        if not self._take(mark):
            raise self._error(repr(mark))

    def _error(self, expected: str) -> InvalidInputError:
        found = self.text[self.at : self.at + 16]
        return InvalidInputError(f"body at character {self.at}: expected {expected}, found {found!r}")


class _ObjectKey:
    """An object in the place of a key; compared by identity, as no two keys of one map are equal."""

    def __init__(self, value: dict[Any, Any]) -> None:
        self.value = value


class _Resolver:
    """Replaces references and turns keys into text."""

    def __init__(self, root: Any) -> None:
        self.root = root
        # References let a short body describe a huge one (each level twice the level below), hence a budget.
        self.budget = MAX_VALUES

    def resolve(self, value: Any, parents: list[Any], depth: int) -> Any:
        self.budget -= 1
        if self.budget < 0:
            raise InvalidInputError(f"body has more than {MAX_VALUES} values once its references are followed")
        if depth > MAX_DEPTH:
            raise InvalidInputError(f"references of the body lead more than {MAX_DEPTH} deep; do they form a circle?")
        if isinstance(value, list):
            return [self.resolve(item, [*parents, value], depth + 1) for item in value]
        if not isinstance(value, dict):
            return value
        path = value.get(_REFERENCE)
        if isinstance(path, str) and len(value) == 1:
            return self.resolve(_find(path, self.root, parents), parents, depth + 1)
        inside = [*parents, value]
        result = {}
        for key, item in value.items():
            if isinstance(key, _ObjectKey):
                key = msgspec.json.encode(self.resolve(key.value, inside, depth + 1)).decode()
            result[key] = self.resolve(item, inside, depth + 1)
        return result


def _find(path: str, root: Any, parents: list[Any]) -> Any:
    """Return what a reference means: `$` the root, `@` the object that holds it, `..` that one's parent, or a path."""
    if path == "@":
        return parents[-1]
    if path == "..":
        return parents[-2] if len(parents) > 1 else root
    place = root
    at = 1
    if not path.startswith("$"):
        raise InvalidInputError(f"reference {path[:64]!r} in the body does not begin with $")
    while at < len(path):
        step = _STEP.match(path, at)
        if step is None:
            raise InvalidInputError(f"reference {path[:64]!r} in the body cannot be read at character {at}")
        at = step.end()
        try:
            place = place[int(step[2])] if step[2] else place[re.sub(r"\\(.)", r"\1", step[1])]
        except (KeyError, IndexError, TypeError):
            raise InvalidInputError(f"reference {path[:64]!r} in the body leads nowhere") from None
    return place
