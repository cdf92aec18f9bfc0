"""Bodies in the dialect of Java's fastjson."""

import msgspec
import pytest

from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.remoting import java_json
from rocketmq_py.remoting.java_json import decode_body, encode_body, encode_object_map, to_standard_json


class Point(msgspec.Struct, rename="camel"):
    some_number: int
    broker_addrs: dict[int, str] = {}


def test_standard_json_is_read_without_being_rewritten():
    assert decode_body(b'{"someNumber":7,"brokerAddrs":{"3":"a:1"}}', Point) == Point(7, {3: "a:1"})


def test_numbers_may_be_keys_without_quotes():
    assert decode_body(b'{"brokerAddrs":{0:"a:1",12:"b:2"},"someNumber":7}', Point) == Point(7, {0: "a:1", 12: "b:2"})


def test_numbers_may_come_as_text():
    assert decode_body(b'{"someNumber":"7"}', Point) == Point(7)


def test_objects_may_be_keys():
    text = b'{"offsetTable":{{"brokerName":"b","queueId":3,"topic":"T"}:{"maxOffset":5}}}'

    assert msgspec.json.decode(to_standard_json(text)) == {
        "offsetTable": {'{"brokerName":"b","queueId":3,"topic":"T"}': {"maxOffset": 5}}
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"a":{"x":[1,2]},"b":{"$ref":"$.a"}}', {"a": {"x": [1, 2]}, "b": {"x": [1, 2]}}),
        (b'{"a":{"x":[1,{"y":2}]},"b":{"$ref":"$.a.x[1]"}}', {"a": {"x": [1, {"y": 2}]}, "b": {"y": 2}}),
        (rb'{"a.b":{"x":1},"c":{"$ref":"$.a\\.b"}}', {"a.b": {"x": 1}, "c": {"x": 1}}),
        (
            b'{"k":{{"q":1}:5},"m":{{"$ref":"$.z"}:6},"z":{"q":2}}',
            {"k": {'{"q":1}': 5}, "m": {'{"q":2}': 6}, "z": {"q": 2}},
        ),
    ],
)
def test_references_become_what_they_refer_to(text, expected):
    assert msgspec.json.decode(to_standard_json(text)) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b'{"a":1', "expected ','"),
        (b'{"a":1}x', "expected the end, found 'x'"),
        (b'{"a":"x', "closed string"),
        (b'{"a":{"$ref":"$.b"},0:1}', "leads nowhere"),
        (b'{"a":{"$ref":"$.a"}}', "circle"),
        (b'{"a":{"b":{"$ref":".."}}}', "circle"),
        (b"[" * 100 + b"]" * 100 + b"x", "nested more than 64"),
        (b"\xff{}", "not UTF-8"),
        (b'{"a":"\\ud800"}x', "bad string"),
    ],
)
def test_what_is_neither_json_nor_javas_is_refused_with_a_place(text, problem):
    with pytest.raises(InvalidInputError) as error:
        to_standard_json(text)

    assert problem in str(error.value)


def test_references_cannot_make_a_short_body_huge(monkeypatch):
    monkeypatch.setattr(java_json, "MAX_VALUES", 10_000)
    levels = ['"l0":[1,2,3,4,5,6,7,8,9,10]']
    levels += [f'"l{n}":[{",".join([f"""{{"$ref":"$.l{n - 1}"}}"""] * 10)}]' for n in range(1, 12)]

    with pytest.raises(InvalidInputError, match="more than 10000 values"):
        to_standard_json(("{" + ",".join(levels) + "}").encode())


def test_a_body_of_another_shape_says_which_member_is_wrong():
    with pytest.raises(InvalidInputError, match=r"body is not a Point: .*someNumber"):
        decode_body(b'{"someNumber":"x"}', Point)


def test_maps_keyed_by_objects_are_written_as_java_writes_them():
    table = encode_object_map([({"queueId": 3}, {"max": 9}), ({"queueId": 4}, 5)])

    assert encode_body({"offsetTable": table}) == b'{"offsetTable":{{"queueId":3}:{"max":9},{"queueId":4}:5}}'
