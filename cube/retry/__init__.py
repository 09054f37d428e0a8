"""Trying again: what may pass, what seems to last, and services that cannot be reached."""

from .policy import (
    TRANSIENT_STATUS,
    Lasting,
    NoConnection,
    Refused,
    Result,
    RetryPolicy,
    Transient,
    retry_after_s,
)
from .services import PROXY_LOGIN, PROXY_LOGIN_STATUS, why_unreachable
from .waiting import GivenUpError, IsGivenUp, heed, heeded, pause, stop_if_given_up

__all__ = [
    "PROXY_LOGIN",
    "PROXY_LOGIN_STATUS",
    "TRANSIENT_STATUS",
    "GivenUpError",
    "IsGivenUp",
    "Lasting",
    "NoConnection",
    "Refused",
    "Result",
    "RetryPolicy",
    "Transient",
    "heed",
    "heeded",
    "pause",
    "retry_after_s",
    "stop_if_given_up",
    "why_unreachable",
]
