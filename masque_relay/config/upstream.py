"""Owns the section `[upstream]`: another relay through which this one reaches targets."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from masque_relay.config.values import Seconds


class UpstreamResolve(StrEnum):
    """Who looks up the names of targets that go upstream."""

    UPSTREAM = "upstream"
    LOCAL = "local"


class UpstreamHttp(StrEnum):
    """The HTTP version towards the upstream relay."""

    AUTO = "auto"
    H3 = "3"
    H2 = "2"
    H1 = "1.1"


class UpstreamDefault(StrEnum):
    """The way of targets that no rule matches."""

    PROXY = "proxy"
    DIRECT = "direct"


class UpstreamSection(BaseModel):
    """An upstream MASQUE relay: CONNECT-UDP and CONNECT-TCP take two hops. Read at start only."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )

    url: str = ""
    """`https://HOST:PORT` of the upstream relay, or its URI template for UDP; empty: none."""
    ca_file: Path | None = None
    """PEM; trust these for the upstream relay and nothing else. Without it, the public roots."""
    token_file: Path | None = None
    """The bearer token that the upstream relay wants of us; read again at every connection."""
    basic_file: Path | None = None
    """Instead: a file with `user:password`."""
    client_certificate_file: Path | None = None
    """Instead: our certificate for the upstream relay, PEM."""
    client_key_file: Path | None = None
    """Its private key."""
    http: UpstreamHttp = UpstreamHttp.AUTO
    """HTTP version: `auto` tries 3 first and falls back to 2 and 1.1 where UDP is blocked."""
    rules: tuple[str, ...] = ()
    """What goes upstream, as `ghostctl proxy --rule` has it: `proxy:WHERE` or `direct:WHERE`, where
    WHERE is a domain, a subnet of literal addresses or `*`, with `:PORT` if wanted. The first that
    matches decides."""
    default: UpstreamDefault = UpstreamDefault.PROXY
    """What no rule matches: `proxy` goes upstream, `direct` does not."""
    resolve: UpstreamResolve = UpstreamResolve.UPSTREAM
    """`upstream`: names go there as names and are never looked up here, so that the policy must
    allow them by name. `local`: they are looked up here, and the policy judges the address."""
    max_hops: Annotated[int, Field(ge=1, le=64)] = 4
    """A request that has come through so many proxies (`via`) goes no further: a loop."""
    open_timeout_s: Seconds = 10.0
    """Until the upstream relay has answered one request."""
    connections: Annotated[int, Field(ge=1, le=64)] = 8
    """Connections to the upstream relay; each carries about 100 tunnels."""

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        given = [self.token_file, self.basic_file, self.client_certificate_file]
        if sum(value is not None for value in given) > 1:
            raise ValueError("give one credential: token_file, basic_file or a certificate")
        if (self.client_certificate_file is None) != (self.client_key_file is None):
            raise ValueError("client_certificate_file and client_key_file come together")
        return self
