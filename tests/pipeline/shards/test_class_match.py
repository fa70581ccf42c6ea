"""Classes of a detector and of a dataset are matched by name, whatever their numbers."""

import pytest

from model.structures import Category
from pipeline.shards.class_match import ClassMismatchError, list_names, match_classes

ANIMALS = [Category(1, "cat"), Category(2, "dog"), Category(3, "emu")]


def test_equal_classes_keep_their_ids():
    match = match_classes(ANIMALS, ANIMALS)
    assert match.ids == {1: 1, 2: 2, 3: 3}
    assert (match.without_objects, match.unknown) == ((), ())


def test_classes_numbered_and_spelled_otherwise_are_matched_by_name():
    dataset = [Category(1, "Emu "), Category(7, "cat"), Category(9, "DOG")]
    assert match_classes(ANIMALS, dataset).ids == {1: 7, 2: 9, 3: 1}


def test_a_class_that_the_dataset_lacks_gets_an_unused_id():
    match = match_classes(ANIMALS, [Category(1, "dog"), Category(2, "fox")])
    assert match.ids == {1: 3, 2: 1, 3: 4}
    assert match.without_objects == (Category(3, "cat"), Category(4, "emu"))
    assert match.unknown == ("fox",)
    results = [{"category_id": 2, "score": 0.5}, {"category_id": 3, "score": 0.1}]
    assert [result["category_id"] for result in match.renumber(results)] == [1, 4]


def test_classes_without_names_are_matched_by_position():
    unnamed = [Category(n, f"class_{n}") for n in (1, 2, 3)]
    dataset = [Category(10, "cat"), Category(20, "dog"), Category(30, "emu")]
    assert match_classes(unnamed, dataset).ids == {1: 10, 2: 20, 3: 30}
    with pytest.raises(ClassMismatchError, match="3 classes without names and the dataset 2"):
        match_classes(unnamed, dataset[:2])


def test_names_that_repeat_match_only_where_the_number_is_the_same():
    repeated = [Category(1, "cat"), Category(12, "N/A"), Category(26, "N/A")]
    assert match_classes(repeated, repeated).ids == {1: 1, 12: 12, 26: 26}
    match = match_classes(repeated, ANIMALS)
    assert match.ids == {1: 1} and not match.without_objects
    assert match.renumber([{"category_id": 12}]) == []


def test_lists_with_no_class_in_common_are_an_error_that_names_some():
    with pytest.raises(ClassMismatchError, match=r"cat, dog, emu, and fox in the dataset"):
        match_classes(ANIMALS, [Category(1, "fox")])


def test_long_lists_are_shortened():
    assert list_names(list("abcdefg")) == "a, b, c, d, e and 2 more"
