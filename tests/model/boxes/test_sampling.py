import torch
from hypothesis import given
from hypothesis import strategies as st

from model.boxes.sampling import ANCHORS, PROPOSALS, _keys, _priorities, sample_candidates
from ops_cuda import IGNORED, NEGATIVE, POSITIVE

CPU = torch.device("cpu")
VERDICTS = st.integers(0, 60).flatmap(
    lambda size: st.lists(
        st.lists(st.sampled_from([POSITIVE, NEGATIVE, IGNORED]), min_size=size, max_size=size),
        min_size=1,
        max_size=3,
    )
)


def chosen(samples, image=0):
    return (
        samples.candidate[image][samples.is_positive[image]].tolist(),
        samples.candidate[image][samples.is_negative[image]].tolist(),
    )


@given(VERDICTS, st.integers(1, 40), st.sampled_from([0.0, 0.25, 1.0]), st.integers(0, 2**70))
def test_positives_up_to_their_share_then_negatives_up_to_the_count(rows, count, share, seed):
    verdicts = torch.tensor(rows, dtype=torch.int64)
    seeds = [seed + image for image in range(len(verdicts))]
    samples = sample_candidates(verdicts, count, share, seeds, ANCHORS)
    assert samples.candidate.shape == (len(verdicts), min(count, verdicts.shape[1]))
    assert not (samples.is_positive & samples.is_negative).any()
    assert not samples.is_positive[:, samples.most_positive :].any()
    assert (samples.candidate[~(samples.is_positive | samples.is_negative)] == 0).all()
    for image, verdict in enumerate(verdicts):
        positive, negative = chosen(samples, image)
        positives = int((verdict == POSITIVE).sum())
        assert len(positive) == min(positives, int(count * share))
        assert len(negative) == min(int((verdict == NEGATIVE).sum()), count - len(positive))
        assert len(set(positive + negative)) == len(positive) + len(negative)
        assert all(verdict[i] == POSITIVE for i in positive)
        assert all(verdict[i] == NEGATIVE for i in negative)


def test_an_image_s_sample_depends_on_its_own_seed_alone():
    verdict = torch.randint(-1, 2, (1, 500), generator=torch.Generator().manual_seed(0))
    padded = torch.cat([verdict, torch.full((1, 200), IGNORED)], 1)
    together = torch.cat([torch.zeros(1, 700, dtype=torch.int64), padded])
    alone = chosen(sample_candidates(verdict, 64, 0.5, [7], ANCHORS))
    assert alone == chosen(sample_candidates(together, 64, 0.5, [3, 7], ANCHORS), 1)
    assert alone != chosen(sample_candidates(verdict, 64, 0.5, [8], ANCHORS))
    assert alone != chosen(sample_candidates(verdict, 64, 0.5, [7], PROPOSALS))


def test_every_candidate_is_chosen_about_equally_often():
    verdicts = torch.zeros(2000, 10, dtype=torch.int64)
    samples = sample_candidates(verdicts, 3, 0.5, range(2000), ANCHORS)
    counts = torch.bincount(samples.candidate.flatten(), minlength=10)
    # Expectation 600, standard deviation 20.5: five of them.
    assert ((counts - 600).abs() < 103).all()


def test_pairs_of_neighbours_are_chosen_about_equally_often():
    verdicts = torch.zeros(6000, 6, dtype=torch.int64)
    pairs = sample_candidates(verdicts, 2, 0.0, range(6000), PROPOSALS).candidate.sort(1).values
    counts = torch.bincount(pairs[:, 0] * 6 + pairs[:, 1])
    # 15 pairs, expectation 400, standard deviation 19.3: five of them.
    assert ((counts[counts > 0] - 400).abs() < 97).all()
    assert (counts > 0).sum() == 15


def test_priorities_are_uniform_and_never_equal():
    priority = _priorities(250_000, _keys([1, 2], ANCHORS, CPU))
    assert priority.min() >= 0
    assert priority.max() < 2**32
    for row in priority:
        assert len(row.unique()) == 250_000
        counts = torch.bincount(row >> 26, minlength=64)
        # 63 degrees of freedom: mean 63, standard deviation 11.2, five of them.
        assert ((counts - 250_000 / 64).square() / (250_000 / 64)).sum() < 63 + 56
    both = torch.corrcoef(priority.double())[0, 1]
    assert abs(both) < 5 / 250_000**0.5


def test_the_hash_is_the_published_one():
    # lowbias32 in plain integers.
    def mix(x):
        x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
        x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
        return x ^ (x >> 16)

    keys = _keys([5, 6], ANCHORS, CPU)
    expected = [[mix(number ^ key) for number in range(50)] for key in keys.tolist()]
    assert _priorities(50, keys).tolist() == expected
