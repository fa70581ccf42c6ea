"""Read the files in deploy/ as strictly as their readers: a repeated key is an error."""

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"


class StrictLoader(yaml.SafeLoader):
    """The safe loader, without PyYAML's silent choice of the last of equal keys."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        repeated = {key for key in keys if keys.count(key) > 1}
        if repeated:
            raise yaml.constructor.ConstructorError(None, None, f"repeated: {repeated}")
        return super().construct_mapping(node, deep)


def read_yaml(name):
    return yaml.load((DEPLOY / name).read_text(), StrictLoader)
