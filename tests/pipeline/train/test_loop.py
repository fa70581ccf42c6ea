"""The training loop on a toy detector: workers, accumulation, resuming, NaN and fp16."""

import pytest
import torch
from torch import nn

from model.structures import LossTerm
from pipeline.config import OptimizerConfig
from pipeline.train.distributed import average_norm_statistics
from pipeline.train.loop import LoopHooks, LoopPlan, TrainingLoop
from pipeline.train.non_finite import NonFiniteLossError
from pipeline.train.optimizer import build_optimizer, optimizer_state
from pipeline.train.precision import Precision
from tests.pipeline.train.toy_training import (
    CPU,
    GLOBAL_BATCH,
    STEPS,
    ToyDetector,
    assert_same_losses,
    losses,
    stream,
    train,
)
from tests.two_ranks import run_two_ranks


def no_objects_in_the_second_half(image_id):
    return 0 if image_id % GLOBAL_BATCH >= GLOBAL_BATCH // 2 else 2


def two_objects(image_id):
    return 2


def one_of_two_workers(rank, folder):
    outcome = {}
    for name, options in {
        "plain": {},
        "uneven": {"shares": (range(3), range(3, 8))},
        "accumulated": {"accumulate": 2},
        "empty_rank": {"objects_of": no_objects_in_the_second_half},
    }.items():
        reports, toy, _ = train(rank=rank, world=2, **options)
        outcome[name] = losses(reports)
        outcome[f"{name}_weights"] = {k: v for k, v in toy.state_dict().items()}
    norm = nn.BatchNorm2d(2)
    norm.running_mean.fill_(rank)
    average_norm_statistics(norm)
    outcome["running_mean"] = norm.running_mean.tolist()
    try:
        # Image 13 is in step 1, on rank 1.
        train(rank=rank, world=2, nan_image=13)
    except NonFiniteLossError as error:
        outcome["nan"] = {"step": error.step, "image_ids": list(error.image_ids)}
    torch.save(outcome, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    """The outcomes of two real gloo processes, by rank."""
    folder = tmp_path_factory.mktemp("two_workers")
    run_two_ranks(one_of_two_workers, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_workers_compute_the_losses_of_one(two_workers):
    reports, toy, _ = train()
    assert_same_losses(two_workers[0]["plain"], losses(reports))
    for name, weight in toy.state_dict().items():
        torch.testing.assert_close(two_workers[0]["plain_weights"][name], weight)


def test_two_workers_with_unequal_shares_compute_the_losses_of_one(two_workers):
    reports, toy, _ = train()
    assert_same_losses(two_workers[0]["uneven"], losses(reports))
    for name, weight in toy.state_dict().items():
        torch.testing.assert_close(two_workers[0]["uneven_weights"][name], weight)


def test_every_worker_reports_the_losses_over_all_workers(two_workers):
    assert two_workers[0]["plain"] == two_workers[1]["plain"]


def test_two_accumulating_workers_compute_the_losses_of_one(two_workers):
    # Micro-batch m of both workers together has other images than micro-batch m of one worker, so
    # only terms with constant counts agree: here the one counted per image.
    reports, _, _ = train(accumulate=2)
    expected = losses(reports)
    assert two_workers[0]["accumulated"][0]["image"] == pytest.approx(
        expected[0]["image"], rel=1e-5
    )


def test_a_worker_without_objects_does_not_hang_the_others(two_workers):
    reports, _, _ = train(objects_of=no_objects_in_the_second_half)
    assert_same_losses(two_workers[0]["empty_rank"], losses(reports))


def test_nan_stops_every_worker_and_reports_the_images_of_the_worker_that_caused_it(two_workers):
    for outcome in two_workers:
        assert outcome["nan"] == {"step": 1, "image_ids": [12, 13, 14, 15]}


def test_norm_statistics_are_averaged_over_the_workers(two_workers):
    for outcome in two_workers:
        assert outcome["running_mean"] == [0.5, 0.5]


def test_accumulation_equals_one_large_batch_where_counts_are_equal():
    once, whole, _ = train(objects_of=two_objects)
    twice, split, _ = train(accumulate=2, objects_of=two_objects)
    assert_same_losses(losses(once), losses(twice))
    for a, b in zip(whole.parameters(), split.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("log_every", [1, STEPS])
def test_nan_stops_the_run_and_reports_its_micro_batch(log_every):
    with pytest.raises(NonFiniteLossError, match="step 2") as caught:
        train(nan_image=17, accumulate=4, log_every=log_every)
    assert caught.value.image_ids == (16, 17)


def test_nan_without_accumulation_reports_every_image_of_the_batch():
    with pytest.raises(NonFiniteLossError) as caught:
        train(nan_image=0)
    assert caught.value.image_ids == tuple(range(GLOBAL_BATCH))


def test_an_infinite_gradient_of_a_finite_loss_also_stops_the_run():
    class Kink(ToyDetector):
        def forward(self, images, targets):
            terms = super().forward(images, targets)
            zero = terms["image"].total * 0
            return {"kink": LossTerm(zero.sqrt(), terms["image"].count)}

    toy = Kink()
    loop = TrainingLoop(
        toy,
        build_optimizer(toy, OptimizerConfig()),
        lr_schedule=lambda step: 0.1,
        precision=Precision("fp32", CPU),
        device=CPU,
        plan=LoopPlan(0, 2, GLOBAL_BATCH),
    )
    with pytest.raises(NonFiniteLossError, match="gradient became") as caught:
        loop.run(stream(0))
    assert caught.value.image_ids == tuple(range(GLOBAL_BATCH))


def test_a_resumed_run_equals_an_uninterrupted_one():
    whole, _, _ = train()
    first, toy, optimizer = train(stop=2)
    saved = {"model": toy.state_dict(), "optimizer": optimizer_state(optimizer, toy)}
    second, _, _ = train(start=2, saved=saved)
    assert losses(first) + losses(second) == losses(whole)


def test_a_report_averages_its_steps():
    each, _, _ = train()
    (report,), _, _ = train(log_every=STEPS)
    mean = sum(r.losses["loss"] for r in each) / STEPS
    assert report.losses["loss"] == pytest.approx(mean, rel=1e-6)
    assert report.losses["loss"] == pytest.approx(
        report.losses["image"] + report.losses["object"], rel=1e-6
    )


def test_the_last_steps_are_reported_even_if_they_are_few():
    reports, _, _ = train(log_every=3)
    assert [report.step for report in reports] == [3, 4]


def test_training_pauses_after_the_requested_steps_and_continues_in_training_mode():
    paused = []
    _, toy, _ = train(pause=paused.append)
    assert paused == [2, 4]
    assert toy.training


def test_a_stream_that_ends_early_is_an_error():
    toy = ToyDetector()
    loop = TrainingLoop(
        toy,
        build_optimizer(toy, OptimizerConfig()),
        lr_schedule=lambda step: 0.1,
        precision=Precision("fp32", CPU),
        device=CPU,
        plan=LoopPlan(0, STEPS + 1, GLOBAL_BATCH),
    )
    with pytest.raises(RuntimeError, match=f"ended at step {STEPS} of {STEPS + 1}"):
        loop.run(stream(0))


def test_bf16_trains_on_a_cpu_close_to_fp32():
    exact, _, _ = train()
    rough, _, _ = train(precision="bf16")
    # bf16 has 8 bits of precision: 2^-8 per rounding, a few roundings in sequence.
    assert_same_losses(losses(rough), losses(exact), rel=0.03)


def test_a_hook_ends_the_run_after_a_pause():
    pauses = []
    reports, *_ = train(pause=pauses.append, ends_after=lambda step: step == 2)
    assert (len(reports), pauses) == (2, [2])


def test_a_resumed_fp16_run_continues_with_the_saved_scale():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    whole, _, _ = train(scaler=scaler, overflows_in=[0, 2])
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    first, toy, optimizer = train(stop=1, scaler=scaler, overflows_in=[0])
    saved = {"model": toy.state_dict(), "optimizer": optimizer_state(optimizer, toy)}
    restored = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    restored.load_state_dict(scaler.state_dict())
    second, _, _ = train(start=1, saved=saved, scaler=restored, overflows_in=[2])
    assert restored.get_scale() == 2.0**14
    assert losses(first) + losses(second) == losses(whole)


def test_clipping_limits_the_step_and_reports_the_norm_before_clipping():
    toy = ToyDetector()
    before = [p.detach().clone() for p in toy.parameters()]
    config = OptimizerConfig(lr=1.0, momentum=0.0, weight_decay=0.0, bias_lr_factor=1.0)
    reports = []
    TrainingLoop(
        toy,
        build_optimizer(toy, config),
        lr_schedule=lambda step: 1.0,
        precision=Precision("fp32", CPU),
        device=CPU,
        plan=LoopPlan(0, 1, GLOBAL_BATCH, clip_norm=1e-3),
        hooks=LoopHooks(log=reports.append),
    ).run(stream(0))
    moved = torch.cat([(p - b).flatten() for p, b in zip(toy.parameters(), before, strict=True)])
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-2)
    assert reports[0].gradient_norm > 1e-2
