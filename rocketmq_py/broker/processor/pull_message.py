"""The ordinary path of a pull (11, 361): any header form, any subscription.

Source: `PullMessageProcessor`, RocketMQ 5.3.
"""

from __future__ import annotations

from rocketmq_py.broker.pull_message import Pull, PullChecks, PullMessageService, PullTerms
from rocketmq_py.broker.refusal import Refusal
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.headers.pull import PullMessageRequestHeader, PullMessageResponseHeader
from rocketmq_py.remoting.processors import DEFERRED, Deferred, Processors, Request
from rocketmq_py.store.get_message import GetMessageResult


class OrdinaryPull(Pull):
    """A pull whose answer is a whole response, written in the header form of its request."""

    request: Request

    def answer(self, code: ResponseCode, remark: str, suggested: int, result: GetMessageResult) -> None:
        """Build the response and send it."""
        header = PullMessageResponseHeader(
            suggest_which_broker_id=suggested,
            next_begin_offset=result.next_begin_offset,
            min_offset=result.min_offset,
            max_offset=result.max_offset,
            topic_sys_flag=self.terms.topic_sys_flag,
            group_sys_flag=self.terms.group_sys_flag,
        )
        self.request.reply(answer(code, remark, header=header, body=b"".join(result.buffers)))


class PullMessageProcessor:
    """Checks a pull and hands it to the service, which answers now or later."""

    def __init__(self, checks: PullChecks, service: PullMessageService) -> None:
        self._checks = checks
        self._service = service

    def register(self, processors: Processors) -> None:
        """Register both codes; they differ in nothing but a switch for the second."""
        processors.register(RequestCode.PULL_MESSAGE, self.process_request)
        processors.register(RequestCode.LITE_PULL_MESSAGE, self.process_request)

    def process_request(self, request: Request) -> RemotingCommand | Deferred:
        """Refuse the request, or run it."""
        header = decode_header(PullMessageRequestHeader, request.command.ext_fields)
        found = self._checks.check(header, request.command.code, request.connection.remote_address)
        if isinstance(found, Refusal):
            return found.to_response()

        terms, connection = PullTerms(header, found), request.connection
        self._service.run(OrdinaryPull(terms, connection, header.queue_offset, header.commit_offset, request))
        return DEFERRED
