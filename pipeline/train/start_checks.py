"""Checks before a training starts: what would fail later, or train something else than meant."""

import logging

from model.backbones.build import build_backbone
from model.backbones.custom import CustomBackbone
from model.config.settings import ConfigError
from pipeline import storage
from pipeline.config import RunConfig
from pipeline.output_layout import split_shards_url
from pipeline.shards.manifest import MANIFEST_NAME, Manifest, read_manifest
from pipeline.stream.dataset_checks import check_training_data, check_validation_data
from pipeline.train.failures import TrainingError
from pipeline.train.run_record import RunMismatchError, RunRecord

logger = logging.getLogger(__name__)


def check_train_shards(config: RunConfig) -> None:
    """Read the manifests and check that the settings fit them; needs no Ray.

    Warnings are left to the training, which logs them too.

    Raises:
        StorageError: there are no training shards, or a manifest cannot be read.
        TrainingError, ConfigError: as in `check_data`.
    """
    shards = split_shards_url(config, "train")
    logging.disable(logging.WARNING)
    try:
        check_data(config, read_manifest(shards), shards)
    finally:
        logging.disable(logging.NOTSET)


def check_data(config: RunConfig, manifest: Manifest, shards: str) -> None:
    """Check now what the workers or the last validation would fail on later.

    Raises:
        TrainingError: the training shards have another number of classes than the model.
        ConfigError: the masks or keypoints of the shards do not fit the model, or the classes of
            the splits have nothing in common.
    """
    categories = len(manifest.categories)
    if config.model.num_classes != categories:
        raise TrainingError(
            f"model.num_classes is {config.model.num_classes}, but the training shards have "
            f"{categories} categories; set model.num_classes={categories}"
        )
    check_training_data(config, manifest, shards)
    val_shards = split_shards_url(config, "val")
    if storage.exists(storage.join(val_shards, MANIFEST_NAME)):
        check_validation_data(config, read_manifest(val_shards), val_shards, manifest.categories)


def check_frozen_parts(config: RunConfig, resumes: bool = False) -> None:
    """Check that the parts of the detector that are not trained have weights.

    Args:
        config: the job's settings.
        resumes: whether the training continues from a checkpoint, which has all weights.

    Raises:
        TrainingError: the backbone's norms are frozen without weights, so they do not normalize.
        ConfigError: a backbone other than our ResNet cannot be built or trained.
    """
    train, backbone = config.train, config.model.backbone
    has_frozen_norms = backbone.norm == "frozen_bn"
    if not backbone.is_resnet:
        has_frozen_norms = _check_custom_backbone(config)
    if train.weights is not None or train.allow_frozen_random_norms or resumes:
        return
    if has_frozen_norms:
        raise TrainingError(
            "model.backbone.norm is frozen_bn but train.weights is not set: without pretrained "
            "weights such a detector does not learn. Set train.weights to imagenet, coco or a file "
            "(see configs/README.md), or "
            "model.backbone.norm=batch_norm or group_norm; train.allow_frozen_random_norms=true "
            "trains it anyway."
        )
    if backbone.frozen_stages > 0 and backbone.function is None:
        logger.warning(
            "model.backbone.frozen_stages is %d but train.weights is not set: these stages keep "
            "their random weights; set train.weights or model.backbone.frozen_stages=0",
            backbone.frozen_stages,
        )


def _check_custom_backbone(config: RunConfig) -> bool:
    """Build the backbone as the workers will, and return whether its batch norms are frozen."""
    backbone = build_backbone(config.model.backbone, config.model.conventions)
    assert isinstance(backbone, CustomBackbone)
    backbone.checkpoints_activations = config.train.activation_checkpointing
    # RetinaNet's pyramid begins with C3.
    if unused := backbone.unused_parameters(0 if config.model.retinanet is None else 1):
        raise ConfigError(
            [
                f"model.backbone: {backbone.name} has parameters that no map of the pyramid "
                f"depends on, so that no gradient reaches them: {', '.join(unused[:5])}; freeze or "
                "remove them"
            ]
        )
    return backbone.has_frozen_norms


def check_start(
    config: RunConfig, recorded: RunRecord | None, present: RunRecord, checkpoint: str | None
) -> None:
    """Check that the training starts or continues as meant, and log which of the two it does.

    Args:
        config: the job's settings.
        recorded: the record of the training in the output folder, if there is one.
        present: the record of the current job.
        checkpoint: URL of the checkpoint that the training would continue from, if there is one.

    Raises:
        TrainingError: ``train.resume`` rules it out.
        RunMismatchError: the training in the output folder started with other weights.
    """
    output, weights = config.output, config.train.weights
    if checkpoint is None:
        if config.train.resume == "required":
            raise TrainingError(
                f"train.resume=required, but {output} has no checkpoint to continue from. Is "
                "output the folder of the training? train.resume=auto starts a new one"
            )
        if weights is not None:
            logger.info(
                "starting at step 0 with the weights of %s, and nothing else of its training",
                weights,
            )
        return
    name = checkpoint.rpartition("/")[2]
    if config.train.resume == "never":
        raise TrainingError(
            f"train.resume=never, but {output} holds a training with checkpoint {name}; choose "
            "another output, or continue it with train.resume=auto"
        )
    if recorded is not None and weights is not None:
        before, now = (each.recipe.get("train.weights") for each in (recorded, present))
        if before != now:
            raise RunMismatchError(
                f"{output} holds a training that started with train.weights={before}, not "
                f"{now}, which would not be read. Choose another output to start with these "
                "weights, or restore the setting to continue"
            )
    logger.info("continuing the training in %s from %s", output, name)
