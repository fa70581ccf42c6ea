"""The examples of docs/ABSTRACTIONS.md run, in order, in one session."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "ABSTRACTIONS.md"
SECTIONS = ("Detector", "ImageBatch", "Targets", "Proposals", "Conventions", "Shards", "Plan")
SECTIONS += ("Stream", "Checkpoint", "Ledger", "Champion")


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        title = section.partition("\n")[0]
        for example in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
            exec(compile(example, f"{PAGE.name}: {title}", "exec"), namespace)


def test_every_idea_has_a_short_section_with_an_example():
    text = PAGE.read_text()
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))
    assert tuple(sections) == SECTIONS
    for title, body in sections.items():
        assert "```python" in body, title
        assert len(body.splitlines()) <= 45, title
