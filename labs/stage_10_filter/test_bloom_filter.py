"""The bloom filter: its bits are part of a file format, so they must be Apache's."""

from __future__ import annotations

import pytest

from rocketmq_py.broker.filter.bloom import BloomFilter, BloomFilterData, has_bits, murmur3_low64, set_bits
from rocketmq_py.common.errors import InvalidInputError


def test_the_default_filter_has_three_positions_in_112_bits() -> None:
    bloom = BloomFilter(error_rate=20, expected=32)
    assert (bloom.hashes, bloom.bits, bloom.size) == (3, 112, 14)


@pytest.mark.parametrize(
    ("group", "topic", "bits"),
    [
        ("GroupA", "TopicTest", (105, 17, 70)),
        # What a broker 5.3.3 wrote into its consumerFilter.json.
        ("GoldGroupFilter2", "GoldFilter", (53, 47, 107)),
        ("GoldGroupFilter", "GoldFilter", (33, 69, 6)),
    ],
)
def test_a_group_has_the_bits_that_apache_gives_it(group: str, topic: str, bits: tuple[int, ...]) -> None:
    assert BloomFilter().generate(group, topic) == BloomFilterData(bits, 112)


def test_the_hash_is_murmur3_for_every_length_of_tail() -> None:
    # Published values of the x64 128-bit form, seed 0: the first 8 bytes of the digest.
    assert murmur3_low64(b"") == 0
    assert murmur3_low64(b"hello") == 0xCBD8A7B341BD9B02
    assert murmur3_low64(b"hello, world") == 0x342FAC623A5EBC8E
    assert murmur3_low64(b"The quick brown fox jumps over the lazy dog.") == 0xCD99481F9EE902C9


def test_bits_are_counted_from_the_least_significant_of_each_byte() -> None:
    bit_map = BloomFilter().new_map()
    set_bits(bit_map, (6, 33, 69))
    # GoldFilter's first filtered message, from the extension file of the same broker.
    assert bit_map.hex() == "4000000002000000200000000000"
    assert has_bits(bit_map, (33, 69, 6))
    assert not has_bits(bit_map, (33, 69, 7))


def test_no_subscription_that_matches_is_ever_missed_and_few_others_pass() -> None:
    bloom = BloomFilter(error_rate=20, expected=32)
    groups = [f"group-{number}" for number in range(32)]
    bit_map = bloom.new_map()
    for group in groups:
        set_bits(bit_map, bloom.generate(group, "TopicTest").bit_pos)
    assert all(has_bits(bit_map, bloom.generate(group, "TopicTest").bit_pos) for group in groups)
    strangers = sum(
        has_bits(bit_map, bloom.generate(f"stranger-{number}", "TopicTest").bit_pos) for number in range(1_000)
    )
    print(f"{strangers / 10:.1f} % of the others pass although they do not match; 20 % were accepted")
    assert strangers < 300


def test_settings_without_sense_are_refused() -> None:
    for rate, expected in ((0, 32), (100, 32), (20, 0)):
        with pytest.raises(InvalidInputError, match="maxErrorRateOfBloomFilter"):
            BloomFilter(rate, expected)
