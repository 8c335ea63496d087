"""One pool of HTTP connections a provider, whichever key a call carries."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx2

_TIMEOUT_SECONDS = 60.0
_CONNECT_SECONDS = 10.0


def open_http_client() -> httpx2.AsyncClient:
    """Open a client for an SDK to use; whoever opens it closes it.

    Made here, because an SDK's own takes 30 to 100 ms for each key (certificates), and
    because this one follows no redirects: httpx2 would carry `x-goog-api-key` to any host.
    """
    import httpx2  # noqa: PLC0415 -- imported when first used

    timeout = httpx2.Timeout(_TIMEOUT_SECONDS, connect=_CONNECT_SECONDS)
    return httpx2.AsyncClient(timeout=timeout, follow_redirects=False)
