"""``s3://`` addresses as https ones: plain where anyone may read, signed where an account must.

A signed address goes to GDAL as any other does, so that reads of every store are tried again, and
their failures told apart, in the same way. Keys never leave the process, and are looked up where
the read happens.
"""

from __future__ import annotations

import os
import threading
import time
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from cube.config.profiles import S3Access
from cube.errors import ServiceError

_LIFE_S = 3600
"""How long a signed address is good for."""
_RENEWED_S = _LIFE_S / 2
"""After which another is made: GDAL knows a file by its address, so none is made for each read."""
_REGION = "us-east-1"
_NAMES = ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN")


def address_of(href: str, s3: S3Access) -> str:
    """Return the https address of an object, as who may read it without more needs it.

    Examples
    --------
    >>> address_of("s3://copernicus-dem-30m/a/b.tif", S3Access(region="eu-central-1"))
    'https://copernicus-dem-30m.s3.eu-central-1.amazonaws.com/a/b.tif'
    """
    bucket, _, key = href.removeprefix("s3://").partition("/")
    if s3.endpoint:
        return f"{s3.endpoint.rstrip('/')}/{bucket}/{quote(key)}"
    return f"https://{bucket}.s3.{s3.region or _REGION}.amazonaws.com/{quote(key)}"


def signed_address(href: str, s3: S3Access, attempt: int) -> str:
    """Return an address of an object that holds its signature, another for each attempt.

    Raises
    ------
    ServiceError
        If there are no keys, or botocore, which signs, is not installed.
    """
    with _LOCK:
        made, address = _ADDRESSES.get((href, s3, attempt), (0.0, ""))
        if not address or time.monotonic() - made > _RENEWED_S:
            address = _sign(href, s3, _LIFE_S + attempt)
            _ADDRESSES[href, s3, attempt] = time.monotonic(), address
        return address


_LOCK = threading.Lock()
_ADDRESSES: dict[tuple[str, S3Access, int], tuple[float, str]] = {}


def _sign(href: str, s3: S3Access, life_s: int) -> str:
    try:
        from botocore.auth import S3SigV4QueryAuth
        from botocore.awsrequest import AWSRequest
    except ImportError:
        raise ServiceError("s3:// addresses need botocore: pip install 'gelos-lc[s3]'") from None
    payer = "?x-amz-request-payer=requester" if s3.access == "requester-pays" else ""
    request = AWSRequest("GET", address_of(href, s3) + payer)
    S3SigV4QueryAuth(_keys(href, s3), "s3", s3.region or _REGION, expires=life_s).add_auth(request)
    return str(request.url)


def _keys(href: str, s3: S3Access) -> Any:
    """Return the keys of an account: the service's own, or those that Amazon's tools find."""
    from botocore.credentials import Credentials

    own = [os.environ.get(f"{s3.keys}_{name}") for name in _NAMES]
    if own[0] and own[1]:
        return Credentials(*own)
    try:
        return _found_keys()
    except LookupError:
        bucket = href.removeprefix("s3://").partition("/")[0]
        names = " and ".join(f"{s3.keys}_{name}" for name in _NAMES[:2])
        raise ServiceError(f"no keys for s3://{bucket}: set {names}") from None


@lru_cache(maxsize=1)
def _found_keys() -> Any:
    """Return what Amazon's own tools would use; it renews itself.

    Raises
    ------
    LookupError
        If there is nothing; which is looked for again the next time.
    """
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    try:
        found = Session().get_credentials()
    except BotoCoreError:
        found = None
    if found is None:
        raise LookupError
    return found
