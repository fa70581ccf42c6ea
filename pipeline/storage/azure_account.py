"""The Azure storage account of a URL, and its credentials.

They come from the standard environment variables: ``AZURE_STORAGE_CONNECTION_STRING``, or
``AZURE_STORAGE_ACCOUNT`` (where the URL names none) with ``AZURE_STORAGE_KEY`` or
``AZURE_STORAGE_SAS_TOKEN``; without either, Azure's default credentials (``AZURE_CLIENT_ID`` and
others, a managed identity, ``az login``).
"""

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pipeline.storage.retries import StorageError

_SUFFIX = "core.windows.net"
_SUFFIXES = (_SUFFIX, "core.usgovcloudapi.net", "core.chinacloudapi.cn", "core.cloudapi.de")
"""Of Azure's clouds. Credentials are sent to no other host unless a connection string names it."""

# Azurite's account and key, which its documentation publishes.
_EMULATOR = (
    "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey="
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;"
    "BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1"
)


@dataclass(frozen=True)
class Account:
    """A storage account.

    Args:
        name: of the account.
        endpoint: address of its blobs, ``https://{name}.blob.core.windows.net``.
        key: its secret key; None without.
        sas_token: a shared access signature; None without.
        suffix: of the host in the URL that names the account; empty if none does.
    """

    name: str
    endpoint: str
    key: str | None = field(default=None, repr=False)
    sas_token: str | None = field(default=None, repr=False)
    suffix: str = field(default="", compare=False)


def split_url(url: str) -> tuple[str, str, str]:
    """Return the account (empty: that of the environment), the container and the key of a URL."""
    place, _, key = url.partition("://")[2].partition("/")
    container, _, host = place.rpartition("@")
    return (host.partition(".")[0], container, key) if container else ("", host, key)


def account_at(url: str) -> Account:
    """Return the account of a URL with the credentials of the environment; see `account_of`."""
    host = url.partition("://")[2].partition("/")[0].rpartition("@")[2]
    service = host.partition(".")[2]
    name = split_url(url)[0]
    # Both services, of blobs and of Data Lake Storage, have the same files.
    suffix = service.removeprefix("dfs.").removeprefix("blob.") if name else ""
    return account_of(name, suffix)


def account_of(name: str, suffix: str = "") -> Account:
    """Return an account with the credentials of the environment.

    Args:
        name: of the account; empty for the one that the environment names.
        suffix: of its host, as its URL states it, such as ``core.usgovcloudapi.net``; empty for
            the one of the connection string, or of Azure's public cloud.

    Raises:
        StorageError: nothing names an account; it is in no cloud of Azure, or the connection
            string names another one.
    """
    getenv = os.environ.get
    parts = _connection(getenv("AZURE_STORAGE_CONNECTION_STRING", ""))
    stated = (
        parts.get("AccountName")
        or getenv("AZURE_STORAGE_ACCOUNT")
        or getenv("AZURE_STORAGE_ACCOUNT_NAME")
    )
    stated = stated or urlsplit(parts.get("BlobEndpoint", "")).netloc.partition(".")[0]
    name = name or stated
    if not name:
        raise StorageError(
            "no Azure storage account is named; set AZURE_STORAGE_ACCOUNT or "
            "AZURE_STORAGE_CONNECTION_STRING, or use "
            "abfss://container@account.dfs.core.windows.net/path"
        )
    if parts and name == stated:
        protocol = parts.get("DefaultEndpointsProtocol", "https")
        endpoint = parts.get("BlobEndpoint", "").rstrip("/")
        if not endpoint:
            connected = parts.get("EndpointSuffix", _SUFFIX)
            if suffix not in ("", connected):
                raise StorageError(
                    f"the URL of the Azure storage account {name} has the host {suffix}, and "
                    f"AZURE_STORAGE_CONNECTION_STRING has {connected}; correct one of them"
                )
            endpoint = f"{protocol}://{name}.blob.{connected}"
        key, token = parts.get("AccountKey"), parts.get("SharedAccessSignature")
        return Account(name, endpoint, key, token, suffix)
    if suffix not in ("", *_SUFFIXES):
        raise StorageError(
            f"the URL of the Azure storage account {name} has the host {suffix}, which is none of "
            f"Azure's ({', '.join(_SUFFIXES)}); correct it, or set AZURE_STORAGE_CONNECTION_STRING "
            "with its BlobEndpoint"
        )
    key = getenv("AZURE_STORAGE_KEY") or getenv("AZURE_STORAGE_ACCOUNT_KEY")
    token = getenv("AZURE_STORAGE_SAS_TOKEN") if key is None else None
    return Account(name, f"https://{name}.blob.{suffix or _SUFFIX}", key, token, suffix)


def _connection(text: str) -> dict[str, str]:
    """Return the parts of a connection string by name."""
    parts = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
    return _connection(_EMULATOR) if parts.get("UseDevelopmentStorage") == "true" else parts
