import torch
from hypothesis import given
from hypothesis import strategies as st

from model.matching import IGNORED, NEGATIVE, POSITIVE
from model.sampling import ANCHORS, PROPOSALS, sample_candidates

VERDICTS = st.lists(st.sampled_from([POSITIVE, NEGATIVE, IGNORED]), min_size=1, max_size=60)


def chosen(samples, image):
    return (
        samples.positive[image][samples.is_positive[image]].tolist(),
        samples.negative[image][samples.is_negative[image]].tolist(),
    )


@given(st.lists(VERDICTS, min_size=1, max_size=3), st.integers(1, 40), st.integers(0, 2**40))
def test_positives_up_to_their_share_then_negatives_up_to_the_count(verdicts, count, seed):
    tensors = [torch.tensor(verdict) for verdict in verdicts]
    seeds = [seed + image for image in range(len(tensors))]
    samples = sample_candidates(tensors, count, 0.25, seeds, ANCHORS)
    for image, verdict in enumerate(tensors):
        positive, negative = chosen(samples, image)
        positives = int((verdict == POSITIVE).sum())
        assert len(positive) == min(positives, int(count * 0.25))
        assert len(negative) == min(int((verdict == NEGATIVE).sum()), count - len(positive))
        assert len(set(positive + negative)) == len(positive) + len(negative)
        assert all(verdict[i] == POSITIVE for i in positive)
        assert all(verdict[i] == NEGATIVE for i in negative)


def test_an_image_s_sample_depends_on_its_own_seed_alone():
    verdict = torch.randint(-1, 2, (500,), generator=torch.Generator().manual_seed(0))
    other = torch.zeros(700, dtype=torch.int64)
    alone = sample_candidates([verdict], 64, 0.5, [7], ANCHORS)
    together = sample_candidates([other, verdict], 64, 0.5, [3, 7], ANCHORS)
    assert chosen(alone, 0) == chosen(together, 1)
    elsewhere = sample_candidates([verdict], 64, 0.5, [8], ANCHORS)
    assert chosen(alone, 0) != chosen(elsewhere, 0)
    assert chosen(alone, 0) != chosen(sample_candidates([verdict], 64, 0.5, [7], PROPOSALS), 0)


def test_every_candidate_is_chosen_about_equally_often():
    verdict = torch.zeros(10, dtype=torch.int64)
    counts = torch.zeros(10)
    for seed in range(2000):
        counts[chosen(sample_candidates([verdict], 3, 0.5, [seed], ANCHORS), 0)[1]] += 1
    # Expectation 600, standard deviation 20.5: five of them.
    assert ((counts - 600).abs() < 103).all()
