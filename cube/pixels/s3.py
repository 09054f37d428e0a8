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
from cube.retry import Refused

_LIFE_S = 3600
"""How long a signed address is good for."""
_RENEWED_S = _LIFE_S / 2
"""After which another is made: GDAL knows a file by its address, so none is made for each read."""
_REGION = "us-east-1"


def public_address(href: str, s3: S3Access) -> str:
    """Return the https address of an object that anyone may read.

    Examples
    --------
    >>> public_address("s3://copernicus-dem-30m/a/b.tif", S3Access(region="eu-central-1"))
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
    Refused
        If there are no keys, or botocore, which signs, is not installed.
    """
    with _LOCK:
        made, address = _ADDRESSES.get((href, s3, attempt), (0.0, ""))
        if address and time.monotonic() - made < _RENEWED_S:
            return address
        address = _sign(href, s3, _LIFE_S + attempt)
        _ADDRESSES[href, s3, attempt] = time.monotonic(), address
        return address


_LOCK = threading.Lock()
_ADDRESSES: dict[tuple[str, S3Access, int], tuple[float, str]] = {}


def _sign(href: str, s3: S3Access, life_s: int) -> str:
    bucket, _, key = href.removeprefix("s3://").partition("/")
    payer = {"RequestPayer": "requester"} if s3.access == "requester-pays" else {}
    client = _client(s3)
    from botocore.exceptions import BotoCoreError

    try:
        address = client.generate_presigned_url(
            "get_object", Params={"Bucket": bucket, "Key": key, **payer}, ExpiresIn=life_s
        )
    except BotoCoreError:
        raise Refused(
            f"no keys for s3://{bucket}: set {s3.keys}_ACCESS_KEY_ID and {s3.keys}_SECRET_ACCESS_KEY"
        ) from None
    return str(address)


@lru_cache(maxsize=8)
def _client(s3: S3Access) -> Any:
    try:
        from botocore.config import Config
        from botocore.session import Session
    except ImportError:
        raise Refused("s3:// addresses need botocore: pip install 'gelos-lc[s3]'") from None
    style = "path" if s3.endpoint else "virtual"
    return Session().create_client(
        "s3",
        region_name=s3.region or _REGION,
        endpoint_url=s3.endpoint or None,
        aws_access_key_id=os.environ.get(f"{s3.keys}_ACCESS_KEY_ID"),
        aws_secret_access_key=os.environ.get(f"{s3.keys}_SECRET_ACCESS_KEY"),
        aws_session_token=os.environ.get(f"{s3.keys}_SESSION_TOKEN"),
        config=Config(signature_version="s3v4", s3={"addressing_style": style}),
    )
