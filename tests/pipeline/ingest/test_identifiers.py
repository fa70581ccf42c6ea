"""Ids of any JSON type become unique, stable integers, and references find them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ingest.identifiers import IdTable, number_annotations, number_names

json_ids = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.from_regex(r"[0-9_]{1,4}", fullmatch=True),
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.text(max_size=1), st.integers(0, 2), max_size=1),
)


def test_image_ids_from_names_are_stable_and_unique_and_digits_keep_their_value():
    assert number_names(["000005", "2008_000002"]) == {"000005": 5, "2008_000002": 2008000002}
    names = [f"img-{n}" for n in range(500)] + ["9" * 30, "²"]
    ids = number_names(names)
    assert ids == number_names(names[::-1])
    assert len(set(ids.values())) == len(names) and max(ids.values()) < 2**53


@pytest.mark.parametrize("names", [["1_10", "11_0", "110"], ["007", "7"], ["07", "007"]])
def test_names_that_are_the_same_number_get_different_ids(names):
    ids = number_names(names)
    assert len(set(ids.values())) == len(names)
    assert all(ids[name] == int(name) for name in names if name == str(int(name.replace("_", ""))))
    assert ids == number_names(names[::-1])


@pytest.mark.parametrize(
    ("ids", "reference", "found"),
    [
        ([0, 1], "0", 0),
        (["0", "1"], 0, 0),
        (["0", "1"], 0.0, 0),
        ([17.0], 17, 17),
        (["17"], 17, 17),
        ([5], 5.0, 5),
        ([5], 6, None),
        ([1], True, None),
        (["007", "7"], 7, None),
        ([3], None, None),
        ([3], [3], None),
    ],
)
def test_a_reference_finds_the_only_id_that_is_the_same_number(ids, reference, found):
    assert IdTable(ids).find(reference) == found


def test_a_reference_finds_the_id_written_like_it_if_there_is_another_of_the_same_number():
    table = IdTable([0, "0", "00"])
    assert table.find(0) == 0
    assert len({table.find(key) for key in (0, "0", "00")}) == 3


@given(st.lists(json_ids, max_size=12), st.sampled_from(["hash", "count"]))
def test_every_id_finds_its_own_integer_of_64_bits(ids, others):
    table = IdTable(ids, others)
    numbers = {}
    for each in ids:
        if each is not None:
            number = table.find(each)
            assert -(2**63) <= number < 2**63
            assert numbers.setdefault(number, repr(each)) is not None
    assert table.find(None) is None


@given(st.lists(json_ids, max_size=12))
def test_every_annotation_gets_its_own_integer_and_unused_integers_stay(ids):
    numbers = number_annotations(ids)
    assert len(set(numbers)) == len(ids)
    for n, each in enumerate(ids):
        if type(each) is int and abs(each) < 2**62 and each not in ids[:n]:
            assert numbers[n] == each


def test_categories_count_up_where_their_ids_are_no_numbers():
    table = IdTable(["car", "2", "van"], others="count")
    assert [table.find(each) for each in ("car", "2", "van")] == [1, 2, 3]
