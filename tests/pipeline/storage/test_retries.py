"""Transient errors are retried with pauses; permanent ones are raised at once, with advice."""

import threading
import traceback
from types import SimpleNamespace

import pyarrow
import pytest

from pipeline import storage
from pipeline.storage import retries
from pipeline.storage.retries import RefusedError, retry, status_error
from pipeline.storage.versions import list_versions
from tests.object_stores import Gateway

S3_ADVICE = "AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID"
GOOGLE_ADVICE = "GOOGLE_APPLICATION_CREDENTIALS"
AZURE_ADVICE = "AZURE_STORAGE_ACCOUNT, AZURE_STORAGE_KEY or AZURE_STORAGE_CONNECTION_STRING"


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that were made, in seconds; none is waited for."""
    made = []
    monkeypatch.setattr(retries, "time", SimpleNamespace(sleep=made.append))
    return made


def failing(*errors):
    """Return an action that raises these errors in turn, then returns "done"."""
    left = list(errors)

    def action():
        if left:
            raise left.pop(0)
        return "done"

    return action


def test_a_transient_error_is_retried_with_growing_pauses(pauses):
    errors = [OSError("AWS Error NETWORK_CONNECTION during GetObject operation")] * 3
    assert retry("s3://b/k", failing(*errors)) == "done"
    assert pauses == sorted(pauses) and len(pauses) == 3 and pauses[0] > 0


def test_the_last_transient_error_is_raised(pauses):
    with pytest.raises(storage.StorageError, match=rf"s3://b/k: slow down\. Check {S3_ADVICE}"):
        retry("s3://b/k", failing(*[OSError("slow down")] * 9))
    assert len(pauses) == len(retries._PAUSES_S)


# As the clients word them; most were provoked, see the tests with servers.
PERMANENT = [
    ("s3", OSError("AWS Error ACCESS_DENIED during HeadObject operation: No response body.")),
    ("s3", OSError("AWS Error NO_SUCH_BUCKET during CreateMultipartUpload operation")),
    ("gs", OSError("google::cloud::Status(PERMISSION_DENIED: Permanent error, with a last messag")),
    ("gs", OSError("Could not create a OAuth2 access token to authenticate the request.")),
    ("gs", pyarrow.ArrowInvalid("Unsupported credential type (x) when reading")),
    ("az", OSError("GetProperties failed. Azure Error: [AuthorizationFailure] 403 Server failed")),
    ("abfss", pyarrow.ArrowException("Failed to get token from DefaultAzureCredential.")),
    ("az", RefusedError("no such key")),
    ("/tmp/file", OSError("No space left on device")),
]
ADVICE = {"s3": S3_ADVICE, "gs": GOOGLE_ADVICE, "az": AZURE_ADVICE, "abfss": AZURE_ADVICE}


@pytest.mark.parametrize(("scheme", "error"), PERMANENT)
def test_a_permanent_error_is_raised_at_once_with_the_advice_of_its_store(pauses, scheme, error):
    url = f"{scheme}://bucket/key" if scheme in ADVICE else scheme
    with pytest.raises(storage.StorageError) as raised:
        retry(url, failing(error))
    advice = ADVICE.get(scheme, "Check permissions and free space.")
    assert str(raised.value).startswith(f"{url}: {error}. ") and advice in str(raised.value)
    others = {*ADVICE.values()} - {advice}
    assert not any(other in str(raised.value) for other in others)
    assert pauses == []


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ("az", "Azure Error: [ServerBusy] 503 The server is busy."),
        ("az", "Azure Error: [] 429 Too many requests"),
        ("az", "Azure Error: [] Fail to get a new connection for: http://127.0.0.1:17199."),
        ("gs", "google::cloud::Status(UNAVAILABLE: Retry policy exhausted, with a last message of"),
        ("s3", "AWS Error SLOW_DOWN during PutObject operation"),
    ],
)
def test_an_overload_or_a_broken_connection_is_transient(pauses, scheme, message):
    assert retry(f"{scheme}://b/k", failing(OSError(message))) == "done"
    assert len(pauses) == 1


SIGNED = "https://a.blob.core.windows.net/c/k?sv=2024&se=2030-01-01&{}=dGVzdA%3D%3D&sp=r"


@pytest.mark.parametrize("kind", [OSError, RefusedError, FileNotFoundError, pyarrow.ArrowInvalid])
@pytest.mark.parametrize("name", ["sig", "SIG", "X-Amz-Signature", "X-Goog-Signature", "Signature"])
def test_the_signature_of_an_address_is_in_no_message_and_no_traceback(pauses, kind, name):
    def action():
        try:
            raise ValueError(SIGNED.format(name))
        except ValueError as error:
            raise kind(f"HEAD '{error}' failed") from error

    with pytest.raises(storage.StorageError) as raised:
        retry("az://c/k", action)
    shown = "".join(traceback.format_exception(raised.value)) + repr(raised.value)
    assert "dGVzdA" not in shown
    assert f"HEAD 'https://a.blob.core.windows.net/c/k?sv=2024&se=2030-01-01&{name}=" in shown
    assert type(raised.value.__cause__) is kind


def test_a_cause_without_a_signature_stays_as_it_is(pauses):
    given = RefusedError("the signature of the request does not match; se=2030")
    with pytest.raises(storage.StorageError) as raised:
        retry("az://c/k", failing(given))
    assert raised.value.__cause__ is given and str(given) in str(raised.value)


def test_a_missing_file_is_raised_at_once(pauses):
    with pytest.raises(storage.MissingFileError, match="gs://b/k: no such file or folder"):
        retry("gs://b/k", failing(FileNotFoundError("404")))
    assert pauses == []


def test_an_error_of_the_program_is_not_one_of_the_store(pauses):
    with pytest.raises(TypeError, match="a bug"):
        retry("s3://b/k", failing(TypeError("a bug")))


def test_timeouts_throttling_and_server_errors_are_transient_statuses():
    transient = [s for s in range(400, 600) if not isinstance(status_error(s, ""), RefusedError)]
    assert transient == [408, 429, *range(500, 600)]


@pytest.mark.s3
def test_nothing_is_lost_while_a_server_is_gone_for_seconds(s3, s3_port, monkeypatch):
    """All connections break in the middle of writes and reads, and new ones are refused."""
    folder = s3("outage")
    storage.write_bytes(f"{folder}/warm up", b"")
    contents = {f"{folder}/{n:03d}": bytes([n]) * 200_000 for n in range(40)}
    with Gateway(s3_port) as gateway:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{gateway.port}")
        urls = list(contents)
        storage.write_bytes(urls[0], contents[urls[0]])
        outage = threading.Timer(0.1, gateway.be_gone, (2.0,))
        outage.start()
        for url in urls:
            storage.write_bytes(url, contents[url])
            assert storage.read_bytes(url) == contents[url]
        # Else it was over before the server came back.
        assert gateway.broken and not outage.is_alive()
        listed = [file.name for file in list_versions(folder)]
        assert listed == [*(url.rpartition("/")[2] for url in urls), "warm up"]
        assert all(storage.read_bytes(url) == content for url, content in contents.items())
