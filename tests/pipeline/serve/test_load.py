"""Hundreds of requests at once: none is lost, and each gets its own answer."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from model.images.decode import decode_image
from tests.pipeline.serve.bad_requests import BAD_REQUESTS

pytestmark = pytest.mark.ray

CLIENTS, GOOD_REQUESTS, ROUNDS = 32, 240, 7


def samples(send, url):
    """Return the server's metrics: (name, labels) -> value."""
    text = send(f"{url}/metrics").body.decode()
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_no_request_is_lost_under_load(service, web_server, send, encoded, predictor):
    images = [encoded(seed) for seed in range(6)]
    expected = [predictor.predict(decode_image(image)) for image in images]
    good = [("predict", n % len(images)) for n in range(GOOD_REQUESTS)]
    bad = [(name, None) for name in BAD_REQUESTS for _ in range(ROUNDS)]
    requests = good + bad
    random.Random(0).shuffle(requests)

    with web_server(service, queue=CLIENTS) as url:

        def answer(request):
            name, index = request
            if index is not None:
                return send(f"{url}/{name}", images[index])
            path, body, _, _ = BAD_REQUESTS[name]
            return send(f"{url}/{path}", body)

        with ThreadPoolExecutor(CLIENTS) as pool:
            replies = list(pool.map(answer, requests))
        measured = samples(send, url)

    for (name, index), reply in zip(requests, replies, strict=True):
        if index is None:
            _, _, status, reason = BAD_REQUESTS[name]
            assert reply.status == status, (name, reply.body)
            assert reason in reply.content["error"]
        else:
            assert reply.status == 200, reply.body
            content = reply.content
            # The images of a batch are computed together: the last bits may differ.
            assert content["scores"] == pytest.approx(expected[index].scores.tolist(), abs=1e-5)
            assert content["labels"] == expected[index].labels.tolist()

    assert measured["maskrcnn_requests_total", "/predict", "200"] == GOOD_REQUESTS
    counted = sum(
        value
        for (name, *labels), value in measured.items()
        if name == "maskrcnn_requests_total" and "/metrics" not in labels
    )
    assert counted == len(requests)
    assert measured["maskrcnn_batch_images_sum",] == GOOD_REQUESTS
    batches = measured["maskrcnn_batch_images_count",]
    assert GOOD_REQUESTS / 4 <= batches < 0.9 * GOOD_REQUESTS  # images that wait share a pass
    assert measured["maskrcnn_request_seconds_count", "/predict"] > GOOD_REQUESTS
    assert measured["maskrcnn_requests_in_progress",] == 0


def test_a_replica_that_is_killed_is_replaced(service, web_server, send, encoded):
    def replica():
        [found] = [
            process
            for process in psutil.Process().children(recursive=True)
            if process.name().startswith("ray::ServeReplica") and "-1:detector" in process.name()
        ]
        return found

    killed = replica()
    with web_server(service) as url:
        killed.kill()
        deadline_s, replies = time.monotonic() + 60, []
        while not replies or replies[-1].status != 200:
            assert time.monotonic() < deadline_s
            replies.append(send(f"{url}/predict", encoded()))
        assert {reply.status for reply in replies} <= {200, 503}
        assert replies[-1].content["boxes"]
    assert replica().pid != killed.pid
