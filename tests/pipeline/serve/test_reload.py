"""A server answers with the new champion soon after the alias has moved, and never fails."""

import time

import pytest

from pipeline.serve.run import serving
from tests.pipeline.serve.bad_requests import GOOD

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def test_the_alias_moves_while_requests_are_answered(run_config, registry, send):
    first, broken, third = registry.add(), registry.add(damaged=True), registry.add(shift=3.0)
    registry.promote(first)
    settings = run_config.serve.model_copy(update={"port": 0, "min_score": 0.0, "reload_s": 0.2})
    config = run_config.model_copy(update={"serve": settings})
    with serving(config) as server:
        assert server.model == registry.url(first)

        def answer():
            reply = send(f"{server.url}/predict", GOOD)
            assert reply.status == 200, reply.body
            return reply.content

        def answers_until(moved, seconds):
            """Return the answers up to the first of another version, or for some seconds."""
            answers = [answer()]
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and answers[-1]["model"] != moved:
                answers.append(answer())
            return answers

        before = answer()
        assert before["model"] == registry.url(first)
        registry.promote(broken)
        stayed = answers_until(registry.url(broken), 1.5)
        assert {each["model"] for each in stayed} == {registry.url(first)}
        assert stayed[-1] == before
        registry.promote(third)
        *earlier, moved = answers_until(registry.url(third), 30)
        assert {each["model"] for each in earlier} <= {registry.url(first)}
        assert moved["model"] == registry.url(third)
        assert moved["scores"] != before["scores"]
        assert send(f"{server.url}/ready").content["model"] == registry.url(third)
