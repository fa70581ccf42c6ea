import torch
from hypothesis import given
from hypothesis import strategies as st

from model.boxes.sampling import ANCHORS, PROPOSALS, _keys, _priorities, sample_candidates
from ops_cuda import IGNORED, NEGATIVE, POSITIVE

CPU = torch.device("cpu")
MATCH_LABELS = st.integers(0, 60).flatmap(
    lambda size: st.lists(
        st.lists(st.sampled_from([POSITIVE, NEGATIVE, IGNORED]), min_size=size, max_size=size),
        min_size=1,
        max_size=3,
    )
)


def sampled(samples, image=0):
    """Return the sampled positives and negatives of an image."""
    return (
        samples.indices[image][samples.is_positive[image]].tolist(),
        samples.indices[image][samples.is_negative[image]].tolist(),
    )


@given(MATCH_LABELS, st.integers(1, 40), st.sampled_from([0.0, 0.25, 1.0]), st.integers(0, 2**70))
def test_negatives_fill_up_what_the_limited_positives_leave(rows, count, fraction, seed):
    match_labels = torch.tensor(rows, dtype=torch.int64)
    seeds = [seed + image for image in range(len(match_labels))]
    samples = sample_candidates(match_labels, count, fraction, seeds, ANCHORS)
    assert samples.indices.shape == (len(match_labels), min(count, match_labels.shape[1]))
    assert not (samples.is_positive & samples.is_negative).any()
    assert not samples.is_positive[:, samples.max_positives :].any()
    assert (samples.indices[~samples.valid] == 0).all()
    for image, labels in enumerate(match_labels):
        positive, negative = sampled(samples, image)
        assert samples.valid[image].sum() == len(positive) + len(negative)
        num_positives = int((labels == POSITIVE).sum())
        assert len(positive) == min(num_positives, int(count * fraction))
        assert len(negative) == min(int((labels == NEGATIVE).sum()), count - len(positive))
        assert len(set(positive + negative)) == len(positive) + len(negative)
        assert all(labels[i] == POSITIVE for i in positive)
        assert all(labels[i] == NEGATIVE for i in negative)


def test_the_sample_of_an_image_depends_only_on_its_own_seed():
    labels = torch.randint(-1, 2, (1, 500), generator=torch.Generator().manual_seed(0))
    padded = torch.cat([labels, torch.full((1, 200), IGNORED)], 1)
    batch = torch.cat([torch.zeros(1, 700, dtype=torch.int64), padded])
    alone = sampled(sample_candidates(labels, 64, 0.5, [7], ANCHORS))
    assert alone == sampled(sample_candidates(batch, 64, 0.5, [3, 7], ANCHORS), 1)
    assert alone != sampled(sample_candidates(labels, 64, 0.5, [8], ANCHORS))
    assert alone != sampled(sample_candidates(labels, 64, 0.5, [7], PROPOSALS))


def test_candidates_are_sampled_equally_often():
    match_labels = torch.zeros(2000, 10, dtype=torch.int64)
    samples = sample_candidates(match_labels, 3, 0.5, range(2000), ANCHORS)
    counts = torch.bincount(samples.indices.flatten(), minlength=10)
    # Mean 600, standard deviation 20.5: the limit is 5 of them.
    assert ((counts - 600).abs() < 103).all()


def test_pairs_of_candidates_are_sampled_equally_often():
    match_labels = torch.zeros(6000, 6, dtype=torch.int64)
    pairs = sample_candidates(match_labels, 2, 0.0, range(6000), PROPOSALS).indices.sort(1).values
    counts = torch.bincount(pairs[:, 0] * 6 + pairs[:, 1])
    # 15 pairs, mean 400, standard deviation 19.3: the limit is 5 of them.
    assert ((counts[counts > 0] - 400).abs() < 97).all()
    assert (counts > 0).sum() == 15


def test_priorities_are_uniform_unique_and_uncorrelated():
    priority = _priorities(250_000, _keys([1, 2], ANCHORS, CPU))
    assert priority.min() >= 0
    assert priority.max() < 2**32
    for row in priority:
        assert len(row.unique()) == 250_000
        counts = torch.bincount(row >> 26, minlength=64)
        # Chi-squared, 63 degrees of freedom: mean 63, standard deviation 11.2, limit 5 of them.
        assert ((counts - 250_000 / 64).square() / (250_000 / 64)).sum() < 63 + 56
    correlation = torch.corrcoef(priority.double())[0, 1]
    assert abs(correlation) < 5 / 250_000**0.5


def test_the_hash_is_lowbias32_as_published():
    # The same in Python's integers.
    def mix(x):
        x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
        x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
        return x ^ (x >> 16)

    keys = _keys([5, 6], ANCHORS, CPU)
    expected = [[mix(number ^ key) for number in range(50)] for key in keys.tolist()]
    assert _priorities(50, keys).tolist() == expected
