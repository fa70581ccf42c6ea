"""Classes of several datasets are joined by their names."""

from hypothesis import given
from hypothesis import strategies as st

from model.structures import Category
from pipeline.ingest.merged_classes import merge_classes

names = st.lists(
    st.sampled_from(["cat", "Cat", "dog", "bird", "DOG", "fish"]), min_size=1, max_size=4
)
categories = names.map(
    lambda each: tuple(Category(7 * n % 5 + 10 * (n // 5), name) for n, name in enumerate(each))
)


@given(st.lists(categories, min_size=1, max_size=4))
def test_every_class_of_every_dataset_has_one_label_of_its_own_name(datasets):
    merged = merge_classes(datasets)
    assert len({each.id for each in merged.categories}) == len(merged.categories)
    for dataset, labels, ids in zip(datasets, merged.labels, merged.category_ids, strict=True):
        # Classes of one dataset stay different, even if their names do not.
        assert len(set(labels)) == len(dataset)
        for category, label in zip(dataset, labels, strict=True):
            found = merged.categories[label - 1]
            assert found.name.casefold() == category.name.casefold()
            assert ids[category.id] == found.id
    assert merged.labels[0] == tuple(range(1, len(datasets[0]) + 1))
    assert merged.categories[: len(datasets[0])] == datasets[0]
