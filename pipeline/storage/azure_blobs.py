"""Azure's own client: its connection, its errors, and files that appear when they are complete."""

import base64
import functools
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.storage.azure_account import Account
from pipeline.storage.retries import RefusedError, status_error

_BLOCK_BYTES = 8 << 20


@functools.lru_cache
def connect(account: Account) -> Any:
    """Return the client of an account, ``azure.storage.blob.BlobServiceClient``."""
    # It takes a second to import, and reading needs none of it.
    from azure.storage.blob import BlobServiceClient, ExponentialRetry  # noqa: PLC0415

    return BlobServiceClient(
        account.endpoint,
        credential=account.key or account.sas_token or _default_credential(),
        retry_policy=ExponentialRetry(initial_backoff=1, increment_base=2, retry_total=3),
        connection_timeout=10,
        read_timeout=60,
    )


def _default_credential() -> Any:
    from azure.identity import DefaultAzureCredential  # noqa: PLC0415 as above

    return DefaultAzureCredential()


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise errors of Azure's client as those that `retry` knows."""
    from azure.core.exceptions import (  # noqa: PLC0415
        AzureError,
        ClientAuthenticationError,
        HttpResponseError,
        ResourceNotFoundError,
    )

    try:
        yield
    except ResourceNotFoundError as error:
        raise FileNotFoundError(str(error)) from error
    except ClientAuthenticationError as error:
        raise RefusedError(str(error)) from error
    except HttpResponseError as error:
        raise status_error(error.status_code or 500, str(error)) from error
    except AzureError as error:
        raise OSError(str(error)) from error
    except ValueError as error:  # a key or an address that cannot be one
        raise RefusedError(str(error)) from error


class BlockWriter:
    """A file for writing that appears when it is closed.

    Blocks are uploaded as they fill, and become the file in one request at the end.

    Args:
        blob: the client of the blob.
    """

    def __init__(self, blob: Any) -> None:
        self._blob = blob
        self._buffer = bytearray()
        self._blocks: list[str] = []
        # Of this writer alone: another one may be writing the same file.
        self._token = uuid.uuid4().hex
        self._failed = False
        self.closed = False

    def write(self, data: Any) -> int:
        """Add bytes to the end; return their number."""
        self._buffer += data
        while len(self._buffer) > _BLOCK_BYTES:
            self._upload_block()
        return len(data)

    def flush(self) -> None:
        """Do nothing: a part of a file is not to be seen."""

    def close(self) -> None:
        """Make the file appear, unless a block of it could not be uploaded."""
        if self.closed:
            return
        self.closed = True
        if self._failed:
            return
        with translated_errors():
            if not self._blocks:
                self._blob.upload_blob(bytes(self._buffer), overwrite=True)
                return
        self._upload_block()
        with translated_errors():
            self._blob.commit_block_list(self._blocks)

    def _upload_block(self) -> None:
        block = base64.b64encode(f"{self._token}{len(self._blocks):06d}".encode()).decode()
        try:
            with translated_errors():
                self._blob.stage_block(block, bytes(self._buffer[:_BLOCK_BYTES]))
        except OSError:
            self._failed = True
            raise
        self._blocks.append(block)
        del self._buffer[:_BLOCK_BYTES]
