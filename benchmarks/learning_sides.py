"""The two trainings of ``benchmarks.learning_curve``: ours, and torchvision's in a plain loop."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from model import Predictor
from pipeline.config import RunConfig
from pipeline.evaluate.validation import predict_rows, rows_of_rank
from pipeline.shards.coco_ground_truth import coco_ground_truth
from pipeline.shards.manifest import read_manifest
from pipeline.stream.training_stream import open_local_stream
from pipeline.train.loop import LoopPlan, TrainingLoop
from pipeline.train.schedule import learning_rate
from pipeline.train.start_weights import adopt_conventions
from pipeline.train.training_state import new_training_state

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class LearningSettings:
    """What both trainings share.

    Args:
        short_side: short side of an image, pixels; the long side is at most twice that.
        batch: images per step.
        steps: length of the training; the learning rate drops by 10 after 80% of it.
        learning_rate: of all parameters, after a warm-up of 5% of the steps.
    """

    short_side: int
    batch: int
    steps: int
    learning_rate: float


def new_weights(settings: LearningSettings, shards: str, seed: int, path: Path) -> Path:
    """Write the initial weights of both trainings, as torchvision initializes them."""
    torch.manual_seed(seed)
    torch.save(_plain_detector(settings, shards).state_dict(), path)
    return path


class OurTraining:
    """Our training loop, reading shards through the stream; a context manager.

    ``seconds`` is the time of all steps so far.
    """

    def __init__(self, settings: LearningSettings, shards: str, weights: Path, seed: int) -> None:
        self._config, _ = adopt_conventions(_our_config(settings, shards, weights, seed), None)
        self._shards = shards
        self._image_ids: tuple[int, ...] = ()
        self._step = 0
        self.seconds = 0.0

    def __enter__(self) -> Self:
        config, train = self._config, self._config.train
        state = new_training_state(config, read_manifest(self._shards).categories, _CPU)
        self._detector = state.detector
        self._loop = TrainingLoop(
            model=state.distributed_model(),
            optimizer=state.optimizer,
            lr_schedule=lambda step: learning_rate(step, train.optimizer.lr, train.schedule),
            precision=state.precision,
            device=_CPU,
            plan=LoopPlan(0, train.schedule.steps, train.global_batch, log_every=train.log_every),
        )
        with ExitStack() as stack:
            self._stream = stack.enter_context(
                open_local_stream(config, self._shards, 0, 1, 0, train.schedule.steps)
            )
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def step(self) -> tuple[int, ...]:
        """Take a step; return the ids of its images."""
        self._detector.train()
        begin = time.perf_counter()
        self._loop.train_step(self._step, self._batches())
        self.seconds += time.perf_counter() - begin
        self._step += 1
        return self._image_ids

    def detect(self) -> list[dict[str, Any]]:
        """Return the detections on all images, as COCO results."""
        rows = rows_of_rank(self._shards, 0, 1)
        return predict_rows(Predictor(self._detector.eval()), rows, batch=4).results

    def _batches(self) -> Any:
        batch = next(self._stream)
        self._image_ids = batch.targets.image_ids
        yield batch


class PlainTraining:
    """torchvision's Mask R-CNN with its reference scripts' step; ``seconds`` as in ours."""

    def __init__(
        self, settings: LearningSettings, shards: str, images: Path, weights: Path
    ) -> None:
        self._schedule = _our_config(settings, shards, weights, 0).train
        self._model = _plain_detector(settings, shards)
        self._model.load_state_dict(torch.load(weights, weights_only=True))
        trained = [each for each in self._model.parameters() if each.requires_grad]
        self._optimizer = torch.optim.SGD(
            trained, lr=settings.learning_rate, momentum=0.9, weight_decay=1e-4
        )
        document = coco_ground_truth(shards)
        self._category_ids = [category["id"] for category in document["categories"]]
        self._images = {
            image["id"]: _read_image(images / image["file_name"]) for image in document["images"]
        }
        self._targets = {
            image["id"]: self._target(document["annotations"], image)
            for image in document["images"]
        }
        self._step = 0
        self.seconds = 0.0

    def step(self, image_ids: Sequence[int]) -> None:
        """Take a step with these images."""
        self._model.train()
        begin = time.perf_counter()
        train = self._schedule
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self._step, train.optimizer.lr, train.schedule)
        losses = self._model(
            [self._images[each] for each in image_ids], [self._targets[each] for each in image_ids]
        )
        self._optimizer.zero_grad()
        sum(losses.values()).backward()
        self._optimizer.step()
        self.seconds += time.perf_counter() - begin
        self._step += 1

    @torch.no_grad()
    def detect(self) -> list[dict[str, Any]]:
        """Return the detections on all images, as COCO results."""
        self._model.eval()
        results: list[dict[str, Any]] = []
        for image_id, image in self._images.items():
            (found,) = self._model([image])
            corners, sizes = found["boxes"][:, :2], found["boxes"][:, 2:] - found["boxes"][:, :2]
            bitmaps = (found["masks"][:, 0] > 0.5).byte().numpy().transpose(1, 2, 0)
            encoded = coco_mask.encode(np.asfortranarray(bitmaps))
            results += [
                {
                    "image_id": image_id,
                    "category_id": self._category_ids[label - 1],
                    "bbox": box,
                    "score": score,
                    "segmentation": mask,
                }
                for label, box, score, mask in zip(
                    found["labels"].tolist(),
                    torch.cat((corners, sizes), 1).tolist(),
                    found["scores"].tolist(),
                    encoded,
                    strict=True,
                )
            ]
        return results

    def _target(
        self, annotations: Sequence[dict[str, Any]], image: dict[str, Any]
    ) -> dict[str, Tensor]:
        own = [each for each in annotations if each["image_id"] == image["id"]]
        boxes = torch.tensor([each["bbox"] for each in own], dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]
        labels = [1 + self._category_ids.index(each["category_id"]) for each in own]
        bitmaps = [_bitmap(each["segmentation"], image["height"], image["width"]) for each in own]
        return {
            "boxes": boxes,
            "labels": torch.tensor(labels),
            "masks": torch.from_numpy(np.stack(bitmaps)),
        }


def _plain_detector(settings: LearningSettings, shards: str) -> nn.Module:
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )
    short = settings.short_side
    classes = len(read_manifest(shards).categories)
    detector: nn.Module = MaskRCNN(
        backbone, num_classes=classes + 1, min_size=short, max_size=2 * short
    )
    return detector


def _our_config(settings: LearningSettings, shards: str, weights: Path, seed: int) -> RunConfig:
    short, steps = settings.short_side, settings.steps
    return RunConfig.model_validate(
        {
            "output": str(weights.parent / "run"),
            "seed": seed,
            "data": {
                "train_shards": shards,
                "train_short_sides": [short],
                "flip_probability": 0.0,
                "decode_threads": 1,
            },
            "model": {
                "num_classes": len(read_manifest(shards).categories),
                "input": {"short_side": short, "long_side": 2 * short},
                "backbone": {"depth": 18, "norm": "batch_norm", "frozen_stages": 0},
            },
            "train": {
                "workers": 1,
                "cpus_per_worker": 1,
                "global_batch": settings.batch,
                "weights": str(weights),
                "optimizer": {
                    "lr": settings.learning_rate,
                    "bias_lr_factor": 1.0,
                    "bias_weight_decay": 1e-4,
                    "norm_weight_decay": 1e-4,
                },
                "schedule": {
                    "steps": steps,
                    "warmup_steps": steps // 20,
                    "milestones": [steps * 4 // 5],
                },
                "log_every": steps,
            },
        }
    )


def _bitmap(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Return the pixels of a mask, (H, W) uint8."""
    if isinstance(segmentation, list):
        parts = coco_mask.frPyObjects(segmentation, height, width)
        segmentation = coco_mask.merge(parts)
    bitmap: np.ndarray = coco_mask.decode(segmentation)
    return bitmap


def _read_image(path: Path) -> Tensor:
    pixels = np.array(Image.open(path).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
