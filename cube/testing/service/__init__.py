"""A stand-in for the Planetary Computer: STAC API, tokens and blob storage, on this machine.

It serves an archive folder over real sockets, goes wrong as asked, and records every request, so
that what the true clients do (pystac-client, the SDK, GDAL) can be tested without a network::

    with StandIn(archive, token_lifetime_s=20, faults=Faults(rate=0.1, seed=7)) as service:
        os.environ.update(service.environment())
        client = pystac_client.Client.open(service.url)
        ...
        assert service.counts()["search"] == 5

Where the real service was seen or documented, this one does as it does. It differs in that blobs
have http addresses rather than https (GDAL reaches them through a proxy setting) unless it is given
a certificate (``tls``; they are then reached through a :class:`Tunnel`), and in what it leaves out:
CQL2 filters, queryables, and the signing endpoint.
"""

from cube.testing.service.faults import Faults, Kind, Manner
from cube.testing.service.log import Request
from cube.testing.service.messages import Role
from cube.testing.service.server import StandIn
from cube.testing.service.tunnel import Tunnel

__all__ = ["Faults", "Kind", "Manner", "Request", "Role", "StandIn", "Tunnel"]
