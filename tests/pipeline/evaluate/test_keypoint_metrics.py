"""Object keypoint similarity: pycocotools' numbers, from shards and prediction files alike."""

import contextlib
import copy
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from model import Detections, ModelConfig
from model.config import KeypointHeadConfig
from model.keypoint_names import COCO_PERSON_KEYPOINTS
from pipeline.evaluate.coco_metrics import KEYPOINT_NUMBERS, NUMBERS, UNIFORM_SIGMA, coco_metrics
from pipeline.evaluate.pictures import draw_comparisons
from pipeline.evaluate.predictions import metric_kinds, predict_rows
from pipeline.evaluate.report import EvaluationReport
from pipeline.infer.inputs import InputImage, plan_inputs
from pipeline.infer.ledger import output_url
from pipeline.infer.prediction_rows import coco_results, read_predictions, row_of, write_rows
from pipeline.infer.predictor import ImagePrediction
from pipeline.ingest.coco import coco_ground_truth
from pipeline.ingest.keypoint_set import KeypointSet
from pipeline.ingest.manifest import read_manifest
from pipeline.ingest.shape_keypoints import SHAPE_KEYPOINTS
from pipeline.ingest.shapes import draw_shapes_dataset
from pipeline.ingest.shard_row import read_rows
from pipeline.ingest.shard_writer import write_shards
from pipeline.stream.decode import decode_image

SIDE = 200


def random_case(seed, names=COCO_PERSON_KEYPOINTS, noise=2.0):
    """People with hidden, unlabelled and no points, a crowd, a category without keypoints."""
    rng = np.random.default_rng(seed)
    count = len(names)
    annotations, results = [], []
    for image_id in range(7, 13):
        for _ in range(4):
            corner, side = rng.uniform(0, 90, 2), rng.uniform(20, 100, 2)
            points = np.concatenate(
                [corner + rng.uniform(0, 1, (count, 2)) * side, rng.integers(0, 3, (count, 1))], 1
            )
            points[:, 2] *= rng.random() < 0.8
            truth = points * (points[:, 2:] > 0)
            category_id = 1 if rng.random() < 0.8 else 3
            box = [*corner.tolist(), *side.tolist()]
            annotations.append(
                {
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": box,
                    "area": float(side.prod() * 0.6),
                    "iscrowd": int(rng.random() < 0.1),
                    "keypoints": truth.ravel().tolist(),
                    "num_keypoints": int((truth[:, 2] > 0).sum()),
                }
            )
            for _ in range(rng.integers(3)):
                guess = points + rng.normal(0, noise, points.shape)
                guess[:, 2] = 1
                results.append(
                    {
                        "image_id": image_id,
                        "category_id": category_id,
                        "bbox": box,
                        "score": float(rng.random()),
                        "keypoints": guess.ravel().tolist(),
                    }
                )
    person = {"id": 1, "name": "person", "keypoints": list(names), "skeleton": []}
    return {
        "images": [{"id": n, "height": SIDE, "width": SIDE} for n in range(7, 14)],
        "annotations": annotations,
        "categories": [person, {"id": 3, "name": "thing"}],
    }, results


def by_hand(truth, results, sigma=None):
    truth, results = copy.deepcopy((truth, results))
    for number, annotation in enumerate(truth["annotations"], start=1):
        annotation["id"] = number
    for result in results:
        del result["bbox"]  # as COCO's server takes them
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        judged = COCOeval(coco, coco.loadRes(results), iouType="keypoints")
        if sigma is not None:
            count = len(truth["categories"][0]["keypoints"])
            judged.params.kpt_oks_sigmas = np.full(count, sigma)
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return judged.stats.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_the_ten_numbers_are_those_of_pycocotools(seed):
    truth, results = random_case(seed)
    before = copy.deepcopy((truth, results))
    measured = coco_metrics(truth, results, ["bbox", "keypoints"])
    numbers = [measured.values[f"keypoints/{number}"] for number in KEYPOINT_NUMBERS]
    assert numbers == by_hand(truth, results)
    assert 0.0 < measured.values["keypoints/AP"] < 1.0
    assert set(measured.values) == {f"bbox/{n}" for n in NUMBERS} | {
        f"keypoints/{n}" for n in KEYPOINT_NUMBERS
    }
    assert measured.notes == ()
    assert (truth, results) == before


def test_other_points_than_cocos_get_one_sigma_and_a_note():
    truth, results = random_case(4, names=("front", "left_side", "right_side"))
    measured = coco_metrics(truth, results, ["keypoints"])
    assert list(measured.values.values()) == by_hand(truth, results, UNIFORM_SIGMA)
    assert "sigma of 0.05" in measured.notes[0]


def test_a_known_distance_has_the_similarity_of_the_formula():
    """OKS of .72 passes the five thresholds up to .7, so AP is a half."""
    area, sigma, wanted = 5000.0, UNIFORM_SIGMA, 0.72
    distance = float(np.sqrt(-np.log(wanted) * 2 * area * (2 * sigma) ** 2))
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "thing", "keypoints": ["tip", "tail"]}],
        "annotations": [
            {
                "image_id": 1,
                "category_id": 1,
                "bbox": [0, 0, 100, 100],
                "area": area,
                "iscrowd": 0,
                "keypoints": [30, 40, 2, 60, 50, 1],
                "num_keypoints": 2,
            }
        ],
    }
    found = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}
    found["keypoints"] = [30 + distance, 40, 1, 60, 50 - distance, 1]
    assert coco_metrics(truth, [found], ["keypoints"]).values["keypoints/AP"] == pytest.approx(0.5)


def test_no_results_is_zero_and_nothing_labelled_is_minus_one():
    truth, _ = random_case(2)
    assert coco_metrics(truth, [], ["keypoints"]).values["keypoints/AP"] == 0.0
    for annotation in truth["annotations"]:
        annotation |= {"keypoints": [0] * 51, "num_keypoints": 0}
    assert set(coco_metrics(truth, [], ["keypoints"]).values.values()) == {-1.0}


def test_another_number_of_points_or_no_names_is_an_error():
    truth, results = random_case(3)
    results[0]["keypoints"] = results[0]["keypoints"][:9]
    with pytest.raises(ValueError, match=r"has 17 keypoints, the results have \[3\]"):
        coco_metrics(truth, results, ["keypoints"])
    del truth["categories"][0]["keypoints"]
    with pytest.raises(ValueError, match="name no keypoints"):
        coco_metrics(truth, [], ["keypoints"])


def test_what_is_measured_follows_the_heads_and_the_data(caplog):
    person = COCO_PERSON_KEYPOINTS
    of_data = KeypointSet(person, (), (1,))
    assert metric_kinds(of_data, has_masks=False, found_keypoints=None) == ("bbox",)
    assert metric_kinds(of_data, True, list(person)) == ("bbox", "segm", "keypoints")
    assert not caplog.records
    assert metric_kinds(None, False, person) == ("bbox",)
    assert "no keypoints" in caplog.text
    with pytest.raises(ValueError, match="another order"):
        metric_kinds(of_data, False, person[::-1])


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keypoints")
    drawn = draw_shapes_dataset(folder / "drawn", 8, 64, 3, seed=1, keypoints=True)
    write_shards(*map(str, drawn), str(folder / "shards"), 4, 4)
    return str(folder / "shards")


def all_rows(shards):
    return [row for file in read_manifest(shards).files for row in read_rows(shards, file.name)]


def truth_of(row, shift=0.0):
    """What a detector that knows the row finds; the third number is a logit."""
    points = torch.from_numpy(row.keypoints).float()
    points[..., :2] += shift
    points[..., 2] = 5.0
    return Detections(
        boxes=torch.from_numpy(row.boxes).float(),
        scores=torch.ones(len(row.labels)),
        labels=torch.from_numpy(row.labels),
        masks=None,
        image_size=row.size,
        keypoints=points,
    )


def oracle(shards, shift=0.0):
    """Stands in for a trained detector: finds what the rows say, in their order."""
    following = iter(all_rows(shards))
    return SimpleNamespace(
        predict=lambda images, batch_size: [truth_of(next(following), shift) for _ in images],
        categories=read_manifest(shards).categories,
        config=ModelConfig(keypoint=KeypointHeadConfig(names=SHAPE_KEYPOINTS)),
    )


def test_who_finds_the_annotated_points_has_ap_one_and_who_misses_them_less(shards):
    truth = coco_ground_truth(shards)
    found = predict_rows(oracle(shards), all_rows(shards), batch=3).results
    assert coco_metrics(truth, found, ["keypoints"]).values["keypoints/AP"] == pytest.approx(1.0)
    moved = predict_rows(oracle(shards, shift=4.0), all_rows(shards), batch=3).results
    assert coco_metrics(truth, moved, ["keypoints"]).values["keypoints/AP"] < 0.9


def test_results_count_pixels_as_the_annotation_file_does(shards):
    """Found points are the annotated ones to the hundredth: no half pixel is lost on the way."""
    truth = {
        (a["image_id"], *a["bbox"][:2]): a["keypoints"]
        for a in coco_ground_truth(shards)["annotations"]
    }
    results = predict_rows(oracle(shards), all_rows(shards), batch=3).results
    assert len(results) == len(truth)
    for result in results:
        key = min(
            (k for k in truth if k[0] == result["image_id"]),
            key=lambda k: abs(k[1] - result["bbox"][0]) + abs(k[2] - result["bbox"][1]),
        )
        found = np.array(result["keypoints"]).reshape(-1, 3)
        # float32 of pixels below 64
        np.testing.assert_allclose(found[:, :2], np.reshape(truth[key], (-1, 3))[:, :2], atol=1e-5)
        assert (found[:, 2] == 1).all()


def test_the_report_has_a_table_for_each_set_of_numbers(shards):
    truth = coco_ground_truth(shards)
    found = predict_rows(oracle(shards), all_rows(shards), batch=3).results
    metrics = coco_metrics(truth, found, ["bbox", "keypoints"])
    page = EvaluationReport("x", "w", "m", "s", "d", metrics, (), ()).to_markdown()
    lines = page.splitlines()
    assert f"| | {' | '.join(NUMBERS)} |" in lines
    assert f"| | {' | '.join(KEYPOINT_NUMBERS)} |" in lines
    [row] = [line for line in lines if line.startswith("| Keypoints |")]
    assert row.count("|") == len(KEYPOINT_NUMBERS) + 2 and row.startswith("| Keypoints | 100.0 |")
    assert "| class | objects | Boxes AP | Boxes AP50 | Keypoints AP | Keypoints AP50 |" in lines
    assert any("sigma of 0.05" in line for line in lines)


def test_prediction_files_keep_the_points_their_names_and_the_coco_form(shards, tmp_path):
    detector = oracle(shards)
    rows = [
        row_of(
            ImagePrediction(InputImage(row.image_id, row.file_name, b""), truth_of(row)),
            detector,
            least_score=0.0,
        )
        for row in all_rows(shards)
    ]
    broken = ImagePrediction(InputImage(99, "broken.jpg", b""), None, "why")
    rows.append(row_of(broken, detector, 0.0))
    write_rows(str(tmp_path / "p.parquet"), rows)
    kept = read_predictions(str(tmp_path / "p.parquet"))
    assert kept == rows
    assert (kept[-1].keypoints, kept[-1].keypoint_names) == (None, None)
    assert kept[0].keypoint_names == list(SHAPE_KEYPOINTS)
    assert np.shape(kept[0].keypoints) == (len(kept[0].scores), 4, 3)
    assert set(np.array(kept[0].keypoints)[..., 2].ravel()) == {5.0}
    truth = coco_ground_truth(shards)
    results = [result for row in kept for result in coco_results(row)]
    assert coco_metrics(truth, results, ["keypoints"]).values["keypoints/AP"] == pytest.approx(1.0)


def test_comparisons_show_the_points_of_both(shards, tmp_path):
    """Ground truth on the left, prediction on the right: the same dots in the same places."""
    detector, manifest = oracle(shards), read_manifest(shards)
    pieces = plan_inputs(shards, images_per_piece=1)
    rows = iter(all_rows(shards))
    for piece in pieces:
        found = [
            row_of(
                ImagePrediction(InputImage(row.image_id, row.file_name, b""), truth_of(row)),
                detector,
                0.0,
            )
            for row in (next(rows) for _ in range(piece.images))
        ]
        write_rows(output_url(str(tmp_path), piece.name), found)
    [first] = draw_comparisons(pieces, manifest, str(tmp_path), str(tmp_path / "drawn"), 1)
    sheet = decode_image((tmp_path / "drawn" / first.rpartition("/")[2]).read_bytes())
    # 64 px are enlarged eightfold; 24 px of head, 8 px of gap.
    left, right = sheet[24:, :512], sheet[24:, 520:]
    for points in all_rows(shards)[0].keypoints:
        for x, y, _ in points:
            column, row = (min(511, round(8 * v)) for v in (x, y))
            patch = np.s_[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
            rim = [(picture[patch] == 0).all(2).sum() for picture in (left, right)]
            assert min(rim) > 0
