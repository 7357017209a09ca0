"""Who may ask: the bearer token of programs, the cookie of the page, and the defences of browsers.

Without a token the service listens on this machine alone. Even there, a page of another site that
is open in a browser could send it forms, or reach it under a name of its own that it points at
127.0.0.1; so a request that changes something must come from our own page, and without a token the
name it was sent to must be one of this machine.
"""

import hashlib
import hmac
import ipaddress
import secrets
import time
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tipr_jax.serving.answers import refusal

COOKIE = "tipr_session"
SESSION_S = 12 * 3600
TOKEN_CHARACTERS = 16
OPEN_PATHS = ("/healthz", "/readyz", "/login")  # and /static/


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, token: str) -> None:
    """Raises ValueError when others could reach the service without a token, or by a weak one."""
    if token and len(token) < TOKEN_CHARACTERS:
        raise ValueError(
            f"--token has {len(token)} characters, expected at least {TOKEN_CHARACTERS}; make one: "
            'python -c "import secrets; print(secrets.token_urlsafe())"'
        )
    if not token and not is_loopback(host):
        raise ValueError(
            f"--host={host} can be reached by other machines, so say who may ask: --token=SECRET, "
            "or $TIPR_TOKEN"
        )


class Keys:
    """What proves that a request may be answered; token "": everyone on this machine."""

    def __init__(self, token: str = ""):
        self.token = token

    def fits(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self.token.encode())

    def session(self, now: float | None = None) -> str:
        """The value of a cookie that is good for `SESSION_S` seconds."""
        until = str(int((time.time() if now is None else now) + SESSION_S))
        return f"{until}.{self._signed(until)}"

    def who(self, request: Request) -> str | None:
        """Who asks, for the audit log: the address and the proof; None for nobody we know."""
        address = request.client.host if request.client else "unknown"
        if not self.token:
            return f"{address} without token"
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self.fits(given.strip()):
            return f"{address} by token"
        if self._good_session(request.cookies.get(COOKIE, "")):
            return f"{address} by page"
        return None

    def _good_session(self, value: str) -> bool:
        until, _, signature = value.partition(".")
        signed = secrets.compare_digest(signature.encode(), self._signed(until).encode())
        return signed and int(until) > time.time()

    def _signed(self, until: str) -> str:
        return hmac.new(self.token.encode(), f"page {until}".encode(), hashlib.sha256).hexdigest()


class Guard:
    """Middleware that lets no request pass that may not be answered; notes who asks."""

    def __init__(self, app: ASGIApp, keys: Keys):
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            request.state.who = self._keys.who(request)
            if (answer := self._refused(request)) is not None:
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refused(self, request: Request) -> Response | None:
        if not self._keys.token and not is_loopback(_host(request)):
            detail = "the request names another host than this machine; start with --token=SECRET"
            return refusal(request, 403, detail)
        if request.method not in ("GET", "HEAD") and _from_another_site(request):
            return refusal(request, 403, "the request comes from another site than this page")
        path = request.url.path
        if request.state.who or path in OPEN_PATHS or path.startswith("/static/"):
            return None
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            return RedirectResponse("/login", 303)
        return refusal(request, 401, "say who asks: send the header Authorization: Bearer TOKEN")


def _host(request: Request) -> str:
    """The name that a request was sent to, without the port."""
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def _from_another_site(request: Request) -> bool:
    """What a browser says of the page that sent a request; programs say nothing."""
    if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return True
    origin = request.headers.get("origin")
    return origin is not None and origin.partition("://")[2] != request.headers.get("host", "")
