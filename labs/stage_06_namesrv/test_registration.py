"""A broker makes itself known, stays known, and is forgotten: the two claims of this stage, in virtual time."""

import asyncio
import contextlib

import pytest

from rocketmq_py.remoting.bodies.register_broker import RegisterBrokerBody, encode_register_body
from rocketmq_py.remoting.bodies.topic_config import TopicConfigTable
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers.namesrv import RegisterBrokerRequestHeader

from .cluster import Topics, lab_in

pytestmark = pytest.mark.virtual_time

A = {0: "127.0.0.1:10911"}
B = {0: "127.0.0.1:20911"}


def now() -> float:
    return asyncio.get_running_loop().time()


async def seconds_until_route(lab, namesrv, route):
    """Ask for the route of Orders every 0.1 s until it is the one given; return after how many seconds it was."""
    for tenth in range(6_000):
        if await lab.route(namesrv, "Orders") == route:
            return tenth / 10
        await asyncio.sleep(0.1)
    raise AssertionError(f"the route of Orders is still not {route} after 600 s")


@pytest.mark.claim("ns-01")
async def test_name_servers_do_not_talk_to_each_other_and_keep_no_log(tmp_path, environment):
    """Claim: name servers do not talk to each other and keep no log; each broker registers with all of them, clients
    ask any one of them.

    Experiment: two name servers, two brokers that know both, a third broker that knows the first only. Kill the first
    name server, ask the second; start an empty one in the first one's place.
    Observe: both answer alike, except about the third broker; nobody but brokers and clients ever connected to either;
    the new one knows everything within a period; no file was written.
    """
    async with lab_in(tmp_path, environment) as lab:
        first, second = await lab.namesrv(), await lab.namesrv()
        await lab.broker(first, second, topics=Topics(Orders=4, OfA=1), broker_name="a", listen_port=10911)
        await lab.broker(first, second, topics=Topics(Orders=2, OfB=1), broker_name="b", listen_port=20911)
        await lab.broker(first, topics=Topics(OfC=1, OfD=1), broker_name="c", listen_port=30911)

        assert await lab.route(first, "Orders") == {"a": (4, A), "b": (2, B)}
        assert await lab.route(second, "Orders") == {"a": (4, A), "b": (2, B)}
        assert await lab.route(first, "OfC") is not None
        await asyncio.sleep(300)
        # The lab's client was idle for too long, so only the brokers are connected.
        assert (len(first.server.connections), len(second.server.connections)) == (3, 2)
        assert await lab.route(second, "OfC") is None, "what one name server knows does not reach the other"

        port = first.port
        await first.stop()
        assert await lab.route(second, "Orders") == {"a": (4, A), "b": (2, B)}
        empty = await lab.namesrv(port=port)
        seconds = await seconds_until_route(lab, empty, {"a": (4, A), "b": (2, B)})
        print(f"the new name server knew all routes after {seconds:.1f} s")
        assert seconds <= 30
        assert list(tmp_path.iterdir()) == [], "a name server writes nothing until an operator puts a text there"


@pytest.mark.claim("ns-02")
async def test_a_broker_registers_at_start_and_then_every_30_seconds(tmp_path, environment):
    """Claim: a broker registers its topics on start and then every 30 s.

    Experiment: note the time of every answer of the name server for 95 s.
    Observe: 0, 30, 60 and 90 s after the start.
    """
    async with lab_in(tmp_path, environment) as lab:
        namesrv = await lab.namesrv()
        began = now()
        registration = await lab.broker(namesrv, topics=Topics(Orders=4, More=1))
        times = [0.0]
        registration.listeners.append(lambda answer: times.append(now() - began))

        await asyncio.sleep(95)

        print(f"registrations after {[round(time, 3) for time in times]} s")
        assert times == [pytest.approx(expected, abs=0.5) for expected in (0, 30, 60, 90)]


async def register_once(lab, namesrv, **header):
    """Register a broker by hand, over a connection of its own, and never again."""
    client = RemotingClient(lab.environment.clock)
    body = RegisterBrokerBody(
        topic_config_serialize_wrapper=TopicConfigTable(topic_config_table=dict(Topics(Orders=4, More=1).topics))
    )
    fields = RegisterBrokerRequestHeader(
        broker_name="a", broker_addr=A[0], cluster_name="C", ha_server_addr="127.0.0.1:10912", broker_id=0, **header
    )
    command = RemotingCommand.create_request(
        RequestCode.REGISTER_BROKER, encode_header(fields), encode_register_body(body, compressed=False)
    )
    response = await client.request(namesrv.address, command, 3.0)
    assert response.code == 0, response.remark
    return client


async def keep_busy(client, namesrv):
    """Send something else over the connection every 10 s, so that it is not closed for being idle."""
    while True:
        await client.request(namesrv.address, RemotingCommand.create_request(RequestCode.GET_BROKER_CLUSTER_INFO), 3.0)
        await asyncio.sleep(10)


@pytest.mark.claim("ns-02")
@pytest.mark.parametrize(("announced", "expected"), [(None, 120), (20_000, 20)])
async def test_a_broker_that_is_silent_for_120_seconds_is_dropped(tmp_path, environment, announced, expected):
    """Claim: a name server drops a broker that is silent for 120 s (or for the time that the broker announced).

    Experiment: register once over a connection that stays open and busy with other requests, but never again.
    Observe: the route is gone after that time and at most one scan (5 s) more, and the connection is closed.
    """
    async with lab_in(tmp_path, environment) as lab:
        namesrv = await lab.namesrv()
        client = await register_once(lab, namesrv, heartbeat_timeout_millis=announced)
        busy = asyncio.get_running_loop().create_task(keep_busy(client, namesrv))

        seconds = await seconds_until_route(lab, namesrv, None)

        print(f"dropped after {seconds:.1f} s")
        assert expected < seconds <= expected + 5.5
        busy.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await busy
        await client.close()


@pytest.mark.claim("ns-02")
async def test_a_broker_is_dropped_at_once_when_its_connection_closes(tmp_path, environment):
    """Claim: a name server drops a broker at once when its connection closes.

    Experiment: register once and close the connection without a word.
    Observe: the route is gone before a second has passed.
    """
    async with lab_in(tmp_path, environment) as lab:
        namesrv = await lab.namesrv()
        client = await register_once(lab, namesrv)
        assert await lab.route(namesrv, "Orders") is not None

        await client.close()

        assert await seconds_until_route(lab, namesrv, None) < 1


async def test_a_changed_topic_is_known_at_once_and_many_changes_make_few_registrations(tmp_path, environment):
    async with lab_in(tmp_path, environment) as lab:
        first, second = await lab.namesrv(), await lab.namesrv()
        topics = Topics(Orders=4, More=1)
        registration = await lab.broker(first, second, topics=topics)
        answers = []
        registration.listeners.append(answers.append)

        for number in range(100):
            topics.put(f"T{number}", 1)
            registration.register_soon()
        await asyncio.sleep(1)

        assert await lab.route(first, "T99") == await lab.route(second, "T99") == {"broker-a": (1, A)}
        assert 2 <= len(answers) <= 4, "one or two for each name server"


async def test_register_all_returns_after_every_name_server_knows(tmp_path, environment):
    async with lab_in(tmp_path, environment) as lab:
        first, second = await lab.namesrv(), await lab.namesrv()
        topics = Topics(Orders=4, More=1)
        registration = await lab.broker(first, second, topics=topics)
        topics.put("New", 7)

        await registration.register_all()

        assert await lab.route(first, "New") == await lab.route(second, "New") == {"broker-a": (7, A)}


async def test_a_name_server_that_starts_late_is_found(tmp_path, environment):
    """The order in which the processes of a cluster start does not matter: failures are tried again after 1, 2, 4 ... s."""
    async with lab_in(tmp_path, environment) as lab:
        late = await lab.namesrv()
        port = late.port
        await late.stop()
        registration = await lab.broker(late, topics=Topics(Orders=4, More=1))
        assert registration.addresses == [f"127.0.0.1:{port}"]
        await asyncio.sleep(6)

        late = await lab.namesrv(port=port)

        assert await seconds_until_route(lab, late, {"broker-a": (4, A)}) < 8


async def test_a_stopped_broker_says_goodbye(tmp_path, environment):
    async with lab_in(tmp_path, environment) as lab:
        namesrv = await lab.namesrv()
        registration = await lab.broker(namesrv, topics=Topics(Orders=4, More=1))

        await registration.stop_serving()

        assert await lab.route(namesrv, "Orders") is None
        assert repr(namesrv.routes.tables) == "<RouteTables 0 clusters, 0 broker names, 0 live, 0 topics>"
        await asyncio.sleep(100)
        assert await lab.route(namesrv, "Orders") is None, "and does not come back"


async def test_without_force_a_broker_asks_first_and_registers_only_what_is_new(tmp_path, environment):
    async with lab_in(tmp_path, environment) as lab:
        namesrv = await lab.namesrv()
        topics = Topics(Orders=4, More=1)
        registration = await lab.broker(namesrv, topics=topics, force_register=False)
        answers = []
        registration.listeners.append(answers.append)

        await asyncio.sleep(200)
        assert answers == []
        assert await lab.route(namesrv, "Orders") is not None, "the question is a sign of life"

        topics.put("New", 7)
        await asyncio.sleep(31)
        assert len(answers) == 1
        assert await lab.route(namesrv, "New") is not None


async def test_a_broker_that_may_not_write_says_so_of_every_topic(tmp_path, environment):
    async with lab_in(tmp_path, environment) as lab:
        namesrv = await lab.namesrv()
        await lab.broker(namesrv, topics=Topics(Orders=4, More=1), broker_permission=4)

        assert namesrv.routes.tables.topic_queue_table["Orders"]["broker-a"].perm == 4


async def test_acting_masters_send_signs_of_life_every_second(tmp_path, environment):
    """Brokers that may stand in for a dead master announce 10 s, and keep themselves alive between registrations."""
    async with lab_in(tmp_path, environment) as lab:
        namesrv = await lab.namesrv()
        await lab.broker(namesrv, topics=Topics(Orders=4, More=1), enable_slave_acting_master=True)

        for _ in range(29):
            await asyncio.sleep(1)
            assert await lab.route(namesrv, "Orders") is not None
