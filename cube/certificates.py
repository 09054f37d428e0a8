"""Whom https trusts: the same for catalog, tokens and pixels, whichever variable says it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cube.errors import ConfigError

if TYPE_CHECKING:
    from requests import Session

CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
"""Each names a file of certificates; the first that is set counts. Of the libraries, requests reads
the first two, and the GDAL of rasterio's wheels none of them."""


def ca_bundle() -> str:
    """Return the file of authorities that the environment names; empty: the libraries' own.

    Raises
    ------
    ConfigError
        If there is no such file; names the variable.
    """
    for name in CA_VARIABLES:
        if path := os.environ.get(name):
            if not Path(path).is_file():
                raise ConfigError(
                    f"{name}={path}: no such file; expected one file of PEM certificates, or the variable unset"
                )
            return path
    return ""


def gdal_trust() -> dict[str, str]:
    """Return GDAL's option for :func:`ca_bundle`, unless a variable of GDAL's own says another."""
    import certifi

    # rasterio sets the variable itself, to the authorities that come with Python's libraries.
    own = os.environ.get("GDAL_CURL_CA_BUNDLE", certifi.where())
    bundle = ca_bundle()
    return {"GDAL_CURL_CA_BUNDLE": bundle} if bundle and own == certifi.where() else {}


def trust(session: Session) -> None:
    """Let a session of requests trust :func:`ca_bundle`, however it is asked to verify."""
    from requests.adapters import HTTPAdapter

    if not (bundle := ca_bundle()):
        return

    class TrustingAdapter(HTTPAdapter):
        """Sends requests to those whom the bundle vouches for."""

        def send(self, *request: Any, **settings: Any) -> Any:
            return super().send(*request, **{**settings, "verify": bundle})

    session.mount("https://", TrustingAdapter())


def distrust(cause: str) -> str:
    """Return what to do where a cause is a certificate that nobody vouches for; else nothing.

    Another try meets the same certificate.
    """
    if "CERTIFICATE_VERIFY_FAILED" not in cause and "SSL certificate problem" not in cause:
        return ""
    held = next((name for name in CA_VARIABLES if os.environ.get(name)), "")
    if held:
        return f"its certificate is not vouched for by {held}: add the proxy's or service's authority to that file"
    return f"its certificate is not vouched for: set {CA_VARIABLES[0]} to a file that holds your company's authority"
