"""Which language a sender is written in: a name in JSON headers, a number in binary ones.

Source: `LanguageCode`, RocketMQ 5.3.
"""

from __future__ import annotations

from enum import IntEnum


class LanguageCode(IntEnum):
    """The languages that the protocol knows."""

    JAVA = 0
    CPP = 1
    DOTNET = 2
    PYTHON = 3
    DELPHI = 4
    ERLANG = 5
    RUBY = 6
    OTHER = 7
    HTTP = 8
    GO = 9
    PHP = 10
    OMS = 11
    RUST = 12
    NODE_JS = 13
