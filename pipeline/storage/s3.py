"""S3, and servers that speak its protocol.

Endpoint, region and keys come from the standard environment variables (``AWS_ENDPOINT_URL``,
``AWS_REGION``, ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ...).
"""

import functools
import os
from typing import Any

import boto3
import pyarrow.fs
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    ParamValidationError,
)

from pipeline.storage.object_stores import Page
from pipeline.storage.retries import InvalidNameError, RefusedError, status_error

_SCHEME = "s3://"


def open_store(url: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """Return the file system of a URL, and the path in it."""
    return _connect(*_account()), url.removeprefix(_SCHEME).rstrip("/")


def _account() -> tuple[str | None, str | None, str | None]:
    """Return endpoint, region and key id; the clients read the secret key themselves."""
    getenv = os.environ.get
    endpoint = getenv("AWS_ENDPOINT_URL_S3") or getenv("AWS_ENDPOINT_URL")
    region = getenv("AWS_REGION") or getenv("AWS_DEFAULT_REGION")
    return endpoint, region, getenv("AWS_ACCESS_KEY_ID")


@functools.lru_cache
def _connect(
    endpoint: str | None, region: str | None, _key_id: str | None
) -> pyarrow.fs.FileSystem:
    return pyarrow.fs.S3FileSystem(
        endpoint_override=endpoint,
        # A self-hosted server has no regions, but its request signatures need a region name.
        region=region or ("us-east-1" if endpoint else None),
        retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=5),
        connect_timeout=10,
        request_timeout=60,
    )


@functools.lru_cache
def _client(_endpoint: str | None, _region: str | None, _key_id: str | None) -> Any:
    return boto3.client("s3")


def list_page(url: str, prefix: str, token: str | None, limit: int | None) -> Page:
    """List a page of objects with their ETags; see `ObjectStore.list_page`."""
    request = {"Bucket": url.removeprefix(_SCHEME).partition("/")[0], "Prefix": prefix}
    options = {"ContinuationToken": token, "MaxKeys": limit}
    try:
        page = _client(*_account()).list_objects_v2(
            **request, **{name: value for name, value in options.items() if value is not None}
        )
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") == "NoSuchBucket":
            raise FileNotFoundError(str(error)) from error
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
        raise status_error(status, str(error)) from error
    except ParamValidationError as error:  # checks the name of the bucket before it asks
        raise InvalidNameError(str(error)) from error
    except BotoCoreError as error:
        kind = RefusedError if isinstance(error, NoCredentialsError) else OSError
        raise kind(str(error)) from error
    objects = [(entry["Key"], entry["ETag"]) for entry in page.get("Contents", ())]
    return Page(objects, page.get("NextContinuationToken"))
