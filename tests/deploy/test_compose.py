"""The services of a team: pinned, healthy before others start, closed to other machines."""

import re
import subprocess

import pytest

from tests.deploy.strict_yaml import DEPLOY, ROOT, read_yaml

COMPOSE = read_yaml("compose.yaml")
SERVICES = COMPOSE["services"]
EXAMPLE = (DEPLOY / ".env.example").read_text()
SERVICE_KEYS = {
    *("image", "build", "entrypoint", "command", "environment", "volumes", "ports", "restart"),
    *("healthcheck", "depends_on"),
}


def settings_of(text):
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_the_file_has_the_structure_of_compose():
    assert set(COMPOSE) == {"name", "services", "volumes"}
    for service in SERVICES.values():
        assert set(service) <= SERVICE_KEYS
        for volume in service.get("volumes", ()):
            assert volume.split(":")[0] in COMPOSE["volumes"]


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned(name):
    image, _, tag = SERVICES[name]["image"].partition(":")
    assert image
    assert re.match(r"\d+\.\d+", tag), "no version"


def test_services_wait_until_those_they_need_are_healthy_or_done():
    for service in SERVICES.values():
        for name, needed in service.get("depends_on", {}).items():
            if needed["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[name]
            else:
                assert needed["condition"] == "service_completed_successfully"
                assert SERVICES[name]["restart"].startswith("on-failure")
    lasting = [each for each in SERVICES.values() if each["restart"] == "unless-stopped"]
    assert len(lasting) == 3
    assert all({"test", "interval", "timeout"} <= set(each["healthcheck"]) for each in lasting)


def test_ports_are_published_on_the_loopback_interface_unless_the_team_says_otherwise():
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert sorted(port.rsplit(":", 2)[1] for port in ports) == ["5000", "8333"]
    assert all(port.startswith("${TEAM_ADDRESS:-127.0.0.1}:") for port in ports)
    assert settings_of(EXAMPLE)["TEAM_ADDRESS"] == "127.0.0.1"
    assert "ports" not in SERVICES["postgres"]


def test_every_secret_must_be_set_and_the_example_has_none():
    text = (DEPLOY / "compose.yaml").read_text().replace("${NAME:?}", "")
    used = set(re.findall(r"\$\{(\w+)", text))
    required = set(re.findall(r"\$\{(\w+):\?\}", text))
    example = settings_of(EXAMPLE)
    assert used == set(example)
    assert {name for name, value in example.items() if not value} == required
    words = re.compile("KEY|PASSWORD|SECRET")
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if words.search(name):
                assert re.fullmatch(r"\$\{\w+:\?\}", value), name


@pytest.mark.parametrize("name", ["deploy/.env", "deploy/kuberay/secret.env"])
def test_git_ignores_the_filled_in_secrets(name):
    assert (ROOT / f"{name}.example").exists()
    ignored = subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT)
    assert ignored.returncode == 0


def test_the_mlflow_server_takes_these_options():
    from mlflow.cli import server

    known = {name for option in server.params for name in option.opts}
    _mlflow, _server, *options = SERVICES["mlflow"]["command"]
    assert {option.split("=")[0] for option in options} <= known
    assert "--app-name=basic-auth" in options


def test_the_build_of_the_mlflow_image_has_its_file_and_stage():
    build = SERVICES["mlflow"]["build"]
    assert (DEPLOY / build["context"]).resolve() == ROOT
    dockerfile = (ROOT / build["dockerfile"]).read_text()
    assert re.search(rf"^FROM \S+ AS {build['target']}$", dockerfile, re.MULTILINE)
