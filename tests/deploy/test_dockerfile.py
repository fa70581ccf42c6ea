"""The Dockerfile: pinned, without root and secrets, and with paths that exist."""

import re

import pytest

from tests.deploy.strict_yaml import DEPLOY, ROOT

TEXT = (DEPLOY / "Dockerfile").read_text()
JOINED = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE))
INSTRUCTIONS = [line.split(None, 1) for line in JOINED.splitlines() if line.strip()]
IGNORE = (DEPLOY / "Dockerfile.dockerignore").read_text().split("\n")
KNOWN = {"ARG", "FROM", "ENV", "RUN", "COPY", "WORKDIR", "USER", "CMD", "EXPOSE"}


def stages():
    """Return name -> (base, instructions) of each stage."""
    found, name = {}, None
    for instruction, rest in INSTRUCTIONS:
        if instruction == "FROM":
            base, _, name = rest.split()
            found[name] = (base, [])
        elif name:
            found[name][1].append((instruction, rest))
    return found


STAGES = stages()


def test_only_known_instructions_are_used():
    assert {instruction for instruction, _ in INSTRUCTIONS} <= KNOWN


def test_every_base_is_pinned_or_an_earlier_stage():
    default = re.search(r"^ARG PYTHON_IMAGE=(.*)$", TEXT, re.MULTILINE)[1]
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", default)
    earlier = {"${PYTHON_IMAGE}"}
    for name, (base, _) in STAGES.items():
        assert base in earlier
        earlier.add(name)


@pytest.mark.parametrize("name", ["ray", "mlflow"])
def test_final_images_do_not_run_as_root(name):
    instructions = STAGES[name][1]
    users = [rest for instruction, rest in instructions if instruction == "USER"]
    assert users
    assert users[-1] != "root"
    created = " ".join(rest for instruction, rest in instructions if instruction == "RUN")
    assert f"useradd --uid 1000 --create-home {users[-1]}" in created


def test_the_compiler_stays_in_the_build_stage():
    with_compiler = {name for name, (_, body) in STAGES.items() if "g++" in str(body)}
    assert with_compiler == {"wheel"}
    assert STAGES["ray"][0] == "torch"


def test_every_copied_path_exists_and_is_sent_to_the_build():
    copies = [rest for instruction, rest in INSTRUCTIONS if instruction == "COPY"]
    assert len(copies) >= 8
    for copy in copies:
        *sources, _ = copy.split()
        if sources[0].startswith("--from="):
            assert sources[0].removeprefix("--from=") in STAGES
            continue
        for source in sources:
            assert (ROOT / source).exists()
            assert f"!{source}" in IGNORE
    assert IGNORE[1] == "*"


def test_package_lists_are_removed_and_only_what_is_named_is_installed():
    for instruction, rest in INSTRUCTIONS:
        if instruction == "RUN" and "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert "rm -rf /var/lib/apt/lists/*" in rest
        for install in re.findall(r"pip install[^&;]*", rest if instruction == "RUN" else ""):
            assert "-c /opt/constraints.txt" in install or "==$cuda" in install


def test_no_secret_is_built_in():
    for instruction, rest in INSTRUCTIONS:
        if instruction in {"ARG", "ENV"}:
            assert not re.search("KEY|PASSWORD|SECRET|AUTH_TOKEN", rest)


def test_the_image_has_the_packages_that_setuptools_builds():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    copied = " ".join(rest for kind, rest in STAGES["wheel"][1] if kind == "COPY")
    assert {name.rstrip("*") for name in packages} <= set(copied.split())
