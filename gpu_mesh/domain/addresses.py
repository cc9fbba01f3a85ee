"""Addresses of brokers and servers: are they well formed, and how are they shown without their passwords."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

__all__ = ["BROKER_SCHEMES", "check_broker_url", "check_http_url", "mask"]

#: What a broker address may begin with (DESIGN §4).
BROKER_SCHEMES = ("redis", "rediss", "redis+socket", "sentinel")
#: Where another URL begins: a password may itself hold `://`.
_NEXT_URL = re.compile(r"(?<=[\s;,])(?=(?:redis|rediss|redis\+socket|sentinel|unix|https?)://)")
_SECRET_IN_QUERY = re.compile(r"([?&][^=&]*password[^=&]*=)[^&]*", re.IGNORECASE)
_USER_INFO = re.compile(r"(?<=://)([^:@/]*:)?.*@", re.DOTALL)


def mask(text: str) -> str:
    """`text` with the password of every URL in it hidden, also where the URL is written wrongly.

    Rather too much than too little: all between the user and the last `@`, and a user without a password.
    """
    parts = (_SECRET_IN_QUERY.sub(r"\1***", part) for part in _NEXT_URL.split(text))
    return "".join(_USER_INFO.sub(lambda found: f"{found[1] or ''}***@", part) for part in parts)


def check_broker_url(value: str | None) -> str | None:
    """One broker address or several with `;` between, tidied. Raises ValueError saying what is allowed."""
    urls = [url.strip() for url in value.split(";")] if value else []
    for url in urls:
        scheme = url.partition("://")[0]
        if scheme not in BROKER_SCHEMES or "://" not in url:
            raise ValueError(f"an address that begins with {', '.join(f'{name}://' for name in BROKER_SCHEMES)}")
        if scheme == "redis+socket":
            if not urlsplit(url).path:
                raise ValueError("an address with the socket's path, as in redis+socket:///run/redis.sock")
        elif not _located(url):
            raise ValueError(
                "an address with a host and a port from 1 to 65535, as in redis://:password@host:6379/0 "
                "(in a password, write / as %2F, @ as %40, ; as %3B, # as %23)"
            )
        elif not re.fullmatch(r"/?[0-9]*", urlsplit(url).path):
            raise ValueError("an address that ends with the number of a database, as in redis://host:6379/0")
    return ";".join(urls) or None


def check_http_url(value: str | None) -> str | None:
    """An HTTP address. Raises ValueError saying what is allowed."""
    if value is not None and (not value.startswith(("http://", "https://")) or not _located(value)):
        raise ValueError("an http:// or https:// address with a host, as in http://lead:8001")
    return value


def _located(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets without an IPv6 address, or no number from 0 to 65535 as the port
        return False
