"""An evaluation in tiles: with the settings of the config, not of the checkpoint."""

from pathlib import Path

from model import ModelConfig, Predictor
from model.config import TilesConfig
from model.images.decode import decode_image
from model.weights import load_network
from pipeline.config import DataConfig, EvaluateConfig
from pipeline.evaluate.evaluation import run_evaluation
from pipeline.infer.detection_files import read_detection_rows
from tests.pipeline.oracle import read_all_rows


def test_tiles_of_the_config_are_used_and_named(run_config, tiny_checkpoint, shapes_shards):
    tiles = {"size": 48, "overlap": 0.3, "whole_image": False}
    network = load_network(tiny_checkpoint)
    model = ModelConfig.model_validate(network.config.model_dump() | {"tiles": tiles})
    changes = {
        "model": model,
        "data": DataConfig(val_shards=shapes_shards),
        "evaluate": EvaluateConfig(batch=2, pictures=0),
    }
    config = run_config.model_copy(update=changes)
    result = run_evaluation(config, weights=str(tiny_checkpoint))
    page = Path(result.report_url)
    assert "Measured with model.tiles." in page.read_text()
    files = sorted(page.parent.glob("predictions/*.parquet"))
    rows = {row.image_id: row for file in files for row in read_detection_rows(str(file))}
    tiled, plain = Predictor(network, tiles=TilesConfig(**tiles)), Predictor(network)
    image = read_all_rows(shapes_shards)[0]
    pixels, row = decode_image(image.image_bytes), rows[image.image_id]
    expected = tiled.predict(pixels, batch_size=2)
    assert max(expected.image_size) > 48
    assert row.masks_rle == expected.rle()
    assert row.scores == expected.scores.tolist()
    assert row.masks_rle != plain.predict(pixels).rle()
