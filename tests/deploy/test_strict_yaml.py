import pytest
import yaml

from tests.deploy.strict_yaml import DEPLOY, StrictLoader


def test_a_repeated_key_is_refused():
    with pytest.raises(yaml.YAMLError, match="repeated"):
        yaml.load("a: 1\nb: {c: 1, c: 2}", StrictLoader)


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.yaml")), ids=lambda path: path.name)
def test_every_file_has_each_key_once(path):
    assert yaml.load(path.read_text(), StrictLoader)
