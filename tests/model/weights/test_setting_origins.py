from model.config import ModelConfig
from model.config.settings_table import list_settings
from model.weights.setting_origins import _KEYS, HEADS, ORIGINS


def test_every_setting_of_a_detector_has_exactly_one_origin():
    listed = [
        f"{section}.{name}" if section else name
        for sections in _KEYS.values()
        for section, names in sections.items()
        for name in names.split()
    ]
    assert len(listed) == len(set(listed)) == len(ORIGINS)
    keys = {row.key for row in list_settings(ModelConfig)}
    # Test-time augmentation and tiles are on or off as a whole.
    whole = ("test_augmentation.", "tiles.")
    assert set(listed) == {key for key in keys if not key.startswith(whole)}
    optional = {key for key in keys if "." not in key and key != "num_classes"}
    assert {*HEADS, "test_augmentation", "tiles"} == optional
