"""Properties in which nobody looks at anything: the fourth test of the hot path, and what it finds by the way.

Source: the rules are those of `MessageDecoder#string2messageProperties` and of the hooks, RocketMQ 5.3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

from rocketmq_py.broker.send_message import tags_code
from rocketmq_py.common import properties as names

#: Most cached tags.
MAX_TAGS: Final = 65_536

_UNIQUE_KEY: Final = names.UNIQ_KEY.encode()
_TAGS: Final = names.TAGS.encode()
_KEYS: Final = names.KEYS.encode()
_BLANK: Final = names.KEY_SEPARATOR.encode()


class PlainProperties:
    """The test, and the numbers of the tags that were seen.

    Attributes:
        match: see `match_plain`.
        codes: tags code by tag; None is no tag. One look, since it is asked for every message; see `remember`.
    """

    def __init__(self, triggers: Iterable[bytes]) -> None:
        self.match = match_plain(triggers)
        self.codes: dict[bytes | None, int] = {}

    def watch(self, triggers: Iterable[bytes]) -> None:
        """Watch for other triggers."""
        self.match = match_plain(triggers)

    def remember(self, tags: bytes | None) -> int:
        """Return the code of a tag that was not seen before."""
        if len(self.codes) >= MAX_TAGS:
            self.codes.clear()
        code = self.codes[tags] = tags_code(str(tags or b"", "utf-8", "replace"))
        return code


def index_keys(unique_key: bytes | None, keys: bytes | None) -> tuple[bytes, ...]:
    """Return the keys that the index has of a message; see `keys_of`, which finds them in stored properties."""
    if keys is None:
        return () if unique_key is None else (unique_key,)
    words = (keys,) if _BLANK not in keys else tuple(filter(None, keys.split(_BLANK)))
    return words if unique_key is None else (unique_key, *words)


def match_plain(triggers: Iterable[bytes]) -> Callable[[bytes], re.Match[bytes] | None]:
    """Return a match of properties in which nobody looks at anything.

    Its groups are the unique key, the tags and the keys: the last of each, as the later of two equal names counts.
    Anything that is legal but not usual does not match: empty values and names, a unique key that is no word.

    One pass does it all. The quantifiers are possessive: what has matched is never tried again in another way.

    Args:
        triggers: beginnings of properties that somebody looks at, see `SendHook.triggers`.
    """
    watched = b"|".join((*(name + b"\x01" for name in (_UNIQUE_KEY, _TAGS, _KEYS)), *triggers))
    unique_key, tags, keys = (name + b"\x01(%b++)" for name in (_UNIQUE_KEY, _TAGS, _KEYS))
    alternatives = (
        unique_key % b"[0-9A-Za-z]",
        # In every message of a Java client; without this it would be held against each trigger.
        b"WAIT\x01true",
        tags % b"[^\x02]",
        keys % b"[^\x02]",
        b"(?!" + watched + b")[^\x01\x02]++\x01[^\x02]*+",
    )
    return re.compile(b"(?:(?:" + b"|".join(alternatives) + b")(?:\x02|\\Z))*+").fullmatch
