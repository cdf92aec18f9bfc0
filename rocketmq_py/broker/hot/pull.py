"""The hot path of a pull: a typed header, a cached verdict of the checks, an answer from a template.

It is the ordinary path without its general parts. The checks are the same and run once for each kind of request;
reading, holding and answering are `PullMessageService`, which both paths share.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Protocol

import msgspec

from rocketmq_py.broker.hot.responses import NUMBER, ResponseTemplate
from rocketmq_py.broker.pull_message import FOUND, Pull, PullChecks, PullMessageService, PullTerms
from rocketmq_py.broker.refusal import Refusal
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.java import parse_i32, parse_i64
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.headers.pull import PullMessageRequestHeader
from rocketmq_py.remoting.processors import HotCommand, Processors
from rocketmq_py.store.get_message import GetMessageResult

#: Most cached verdicts; beyond it the table begins anew.
MAX_ENTRIES: Final = 65_536
#: Longest texts of offsets that are certainly in range; longer ones take the ordinary path.
_I64_DIGITS: Final = 18


class HotPullHeader(msgspec.Struct, rename="camel", gc=False):
    """A pull's header as it lies in the frame: all texts. Fields that are not named here are not looked at."""

    consumer_group: str
    topic: str
    queue_id: str
    queue_offset: str
    max_msg_nums: str
    sys_flag: str
    commit_offset: str
    suspend_timeout_millis: str
    sub_version: str
    subscription: str | None = None
    expression_type: str | None = None
    max_msg_bytes: str | None = None
    request_source: str | None = None
    proxy_froward_client_id: str | None = None


#: The code, and all fields but the offsets.
Key = tuple[int, str, str, str, str, str, str, str | None, str | None, str, str | None]


class PullEntry:
    """What the checks found for a key, as long as the version stays."""

    __slots__ = ("terms", "version")

    def __init__(self, terms: PullTerms, version: int) -> None:
        self.terms = terms
        self.version = version


class Sink(Hashable, Protocol):
    """What the hot path needs of a connection."""

    @property
    def remote_address(self) -> str:
        """`ip:port` of the client."""
        ...

    def write_soon(self, data: bytes) -> None:
        """Queue bytes; all of one turn of the loop leave together."""
        ...


class HotPullRequest(Pull):
    """A pull whose answer is filled into a template and written beside those of the same turn of the loop."""

    opaque: int
    path: HotPull

    def answer(self, code: ResponseCode, remark: str, suggested: int, result: GetMessageResult) -> None:
        """Write head and records as one piece of bytes."""
        terms, buffers = self.terms, result.buffers
        template = self.path.found if remark is FOUND else self.path.template(code, remark)
        head = template.fill_head(
            result.size,
            suggested,
            result.next_begin_offset,
            result.min_offset,
            result.max_offset,
            terms.topic_sys_flag,
            terms.group_sys_flag,
            self.opaque,
        )
        owner: Sink = self.owner  # type: ignore[assignment]
        owner.write_soon(head + buffers[0] if len(buffers) == 1 else b"".join([head, *buffers]))


class HotPull:
    """Takes PULL_MESSAGE and LITE_PULL_MESSAGE frames with a JSON header."""

    def __init__(self, checks: PullChecks, service: PullMessageService) -> None:
        self._checks = checks
        self._service = service
        self._entries: dict[Key, PullEntry] = {}
        self._templates: dict[tuple[ResponseCode, str], ResponseTemplate] = {}
        self.found = self._make_template(ResponseCode.SUCCESS, FOUND)
        self._decode = msgspec.json.Decoder(HotPullHeader).decode

    def register(self, processors: Processors) -> None:
        """Register both codes as hot."""
        processors.hot[RequestCode.PULL_MESSAGE] = self.feed
        processors.hot[RequestCode.LITE_PULL_MESSAGE] = self.feed

    def feed(self, connection: Sink, command: HotCommand, body: bytes) -> bool:
        """Take one frame; false leaves it to the ordinary path, untouched."""
        if command.flag:
            return False
        try:
            header = self._decode(command.ext)
        except msgspec.MsgspecError:
            return False
        if header.request_source is not None or header.proxy_froward_client_id is not None:
            return False
        offset, commit = header.queue_offset, header.commit_offset
        both = offset + commit
        # isdecimal() also holds for digits of other scripts; isascii() excludes those.
        if not (
            both.isdecimal() and both.isascii() and 0 < len(offset) <= _I64_DIGITS and 0 < len(commit) <= _I64_DIGITS
        ):
            return False
        key = (
            command.code,
            header.consumer_group,
            header.topic,
            header.queue_id,
            header.sys_flag,
            header.max_msg_nums,
            header.suspend_timeout_millis,
            header.subscription,
            header.expression_type,
            header.sub_version,
            header.max_msg_bytes,
        )
        entry = self._entries.get(key)
        if entry is None or entry.version != self._checks.version:
            entry = self._enter(key, header, command.code, connection)
            if entry is None:
                return False
        self._service.run(HotPullRequest(entry.terms, connection, int(offset), int(commit), command.opaque, self))
        return True

    def _enter(self, key: Key, hot: HotPullHeader, code: int, connection: Sink) -> PullEntry | None:
        """Run the checks; None if the ordinary path shall refuse the request."""
        self._entries.pop(key, None)
        try:
            header = PullMessageRequestHeader(
                consumer_group=hot.consumer_group,
                topic=hot.topic,
                queue_id=parse_i32(hot.queue_id),
                queue_offset=0,
                max_msg_nums=parse_i32(hot.max_msg_nums),
                sys_flag=parse_i32(hot.sys_flag),
                commit_offset=0,
                suspend_timeout_millis=parse_i64(hot.suspend_timeout_millis),
                sub_version=parse_i64(hot.sub_version),
                subscription=hot.subscription,
                expression_type=hot.expression_type,
                max_msg_bytes=None if hot.max_msg_bytes is None else parse_i32(hot.max_msg_bytes),
            )
        except InvalidInputError:
            return None
        version = self._checks.version
        target = self._checks.check(header, code, connection.remote_address)
        if isinstance(target, Refusal):
            return None
        if len(self._entries) >= MAX_ENTRIES:
            self._entries.clear()
        entry = self._entries[key] = PullEntry(PullTerms(header, target), version)
        return entry

    def template(self, code: ResponseCode, remark: str) -> ResponseTemplate:
        """Return the template for answers with this code and remark."""
        key = (code, remark)
        template = self._templates.get(key)
        if template is None:
            template = self._templates[key] = self._make_template(*key)
        return template

    def _make_template(self, code: ResponseCode, remark: str) -> ResponseTemplate:
        return ResponseTemplate(answer(code, remark), dict.fromkeys(_FIELDS, NUMBER))


#: Header fields of an answer, in the order in which `HotPullRequest.answer` fills them in.
_FIELDS: Final = (
    "suggestWhichBrokerId",
    "nextBeginOffset",
    "minOffset",
    "maxOffset",
    "topicSysFlag",
    "groupSysFlag",
)
