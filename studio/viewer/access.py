"""Who may connect: this machine only, or whoever knows a token; and the web server that asks."""

from __future__ import annotations

import contextlib
import errno
import hmac
import http
import io
import ipaddress
import logging
import re
import secrets
import socket
import threading
import urllib.parse
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import viser
import websockets.asyncio.server
from websockets import Headers
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from studio.errors import StudioError

PORT = 7007
LOOPBACK = "127.0.0.1"
_PORTS_TRIED = 100
_TOKEN_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
_LEAST_TOKEN = 16

_ProcessRequest = Callable[[ServerConnection, Request], "Response | None"]


@dataclass(frozen=True)
class Access:
    """Where the viewer listens, and what a browser must know."""

    host: str = LOOPBACK
    token: str | None = None
    """Stands in the path of the page's address and of its websocket, so that neither opens without it; None: whoever is
    on this machine."""

    @classmethod
    def make(cls, host: str, token: str | None) -> Access:
        """Check what the user said; an address beyond this machine gets a token if none is given.

        Raises:
            StudioError: A token that is short or has letters that an address cannot have.
        """
        if token is not None and (len(token) < _LEAST_TOKEN or not set(token) <= _TOKEN_LETTERS):
            raise StudioError(
                f"--token: needs at least {_LEAST_TOKEN} letters, digits, '-' or '_'.",
                fix="Leave it out, and one is made.",
            )
        if token is None and not is_loopback(host):
            token = secrets.token_urlsafe(24)
        return cls(host, token)

    def url(self, port: int) -> str:
        """The address to open in a browser."""
        host = self.host
        if host in ("0.0.0.0", "::"):
            # Nobody can open 'any address'.
            host = _own_address() if self.token else LOOPBACK
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{port}/" + (f"{self.token}/" if self.token else "")

    def admit(self, path: str, host: str | None, origin: str | None) -> str | None:
        """The path without the token, or None to refuse.

        Args:
            path: Of the request, as sent.
            host: Its ``Host`` header.
            origin: Its ``Origin`` header: where the page comes from that opens a websocket.
        """
        if self.token is not None:
            given, _, rest = path.lstrip("/").partition("?")[0].partition("/")
            # The path is as it was sent; bytes beyond ASCII stand in it as surrogates.
            same = hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self.token.encode())
            return f"/{rest}" if same else None
        # Pages of the web may send requests to this machine, and open websockets, too (DNS rebinding, cross-site
        # websockets): their Host or Origin gives them away.
        if host is None or not is_loopback(_hostname(f"//{host}")):
            return None
        if origin is not None and _place(origin) != host:
            return None
        return path


def is_loopback(host: str | None) -> bool:
    """Whether a host name or address means this machine only."""
    if host is None:
        return False
    if host.lower() in ("localhost", "ip6-localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def free_port(host: str, port: int) -> int:
    """The first port from `port` on that nothing listens on; 0 lets the system choose.

    Raises:
        StudioError: The address is not of this machine, the port is not for everyone, or a hundred are taken.
    """
    try:
        family, _, _, _, _ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise StudioError(f"--host: '{host}' is no address ({error}).", fix="127.0.0.1 is this machine.") from None
    for candidate in range(port, min(port + _PORTS_TRIED, 65536)):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                what = "port" if error.errno == errno.EACCES else "host"
                raise StudioError(
                    f"--{what}: cannot listen on {host}, port {candidate} ({error.strerror}).",
                    fix="Choose a port above 1023." if what == "port" else "127.0.0.1 is this machine.",
                ) from None
            return int(probe.getsockname()[1])
    raise StudioError(f"--port: {port} and the ports behind it are taken.", fix="Choose another with --port.")


class Server(viser.ViserServer):
    """viser's server, behind `Access`, without its banner and without publishing through a third party's tunnel."""

    def __init__(self, access: Access, port: int) -> None:
        self.access = access
        # What viser says when a browser left while something was on its way to it.
        warnings.filterwarnings("ignore", message=r"Queued a .* on a closed connection")
        logging.getLogger("websockets.server").setLevel(logging.CRITICAL)
        with contextlib.redirect_stdout(io.StringIO()), _guarded(access) as installed:
            super().__init__(host=access.host, port=free_port(access.host, port), verbose=False)
        if not installed.is_set():
            self.stop()
            raise StudioError(
                f"viser {viser.__version__} starts its web server in a way that cannot be guarded.",
                fix="pip install 'viser>=1.0,<2'",
            )

    @property
    def url(self) -> str:
        """The address to open in a browser."""
        return self.access.url(self.get_port())

    def request_share_url(self, verbose: bool = True) -> str | None:
        """Never: what is viewed stays between this machine and those who know the token."""
        return None

    def stop(self) -> None:
        """Close all connections."""
        with contextlib.redirect_stdout(io.StringIO()):
            super().stop()


@contextlib.contextmanager
def _guarded(access: Access) -> Iterator[threading.Event]:
    """While a `ViserServer` is constructed: put the check of `access` before its handling of each request.

    viser offers no hook for it. It starts ``websockets.asyncio.server.serve`` in its constructor, with a function that
    sees every request first, pages and websockets alike; this wraps that function. The event tells that it was.
    """
    original: Any = websockets.asyncio.server.serve
    installed = threading.Event()

    def serve(*args: Any, process_request: _ProcessRequest | None = None, **options: Any) -> Any:
        def checked(connection: ServerConnection, request: Request) -> Response | None:
            hosts, origins = request.headers.get_all("Host"), request.headers.get_all("Origin")
            if len(hosts) > 1 or len(origins) > 1:
                return _answer(http.HTTPStatus.BAD_REQUEST, "The request has two addresses.")
            path = access.admit(request.path, next(iter(hosts), None), next(iter(origins), None))
            if path is None:
                return _answer(http.HTTPStatus.FORBIDDEN, _REFUSED)
            request.path = path
            if process_request is None:
                return None
            if len(path) > _LONGEST_PATH or not path.isascii() or "%00" in path:
                return _answer(http.HTTPStatus.BAD_REQUEST, "There is no such address.")
            try:
                found = process_request(connection, request)
            except (OSError, ValueError):  # an address that no file can have
                return _answer(http.HTTPStatus.BAD_REQUEST, "There is no such address.")
            if found is not None:
                _add_policy(found.headers, *hosts)
            return found

        installed.set()
        return original(*args, process_request=checked, **options)

    websockets.asyncio.server.serve = serve  # type: ignore[assignment, misc]
    try:
        yield installed
    finally:
        websockets.asyncio.server.serve = original  # type: ignore[misc]


_REFUSED = "This viewer opens with the whole address that was printed when it was started."
_LONGEST_PATH = 1024
"""Letters of an address; the page's own are far shorter."""


def _answer(status: http.HTTPStatus, said: str) -> Response:
    text = f"{said}\n".encode()
    headers = Headers({"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(text))})
    _add_policy(headers)
    return Response(status, status.phrase, headers, text)


def _add_policy(headers: Headers, host: str = "") -> None:
    """Tell the browser that the page is shown in no other one, and loads and reaches nothing but this server.

    The page of viser is one file with its scripts and styles in it; it makes functions of texts, and workers of blobs.
    """
    # Some browsers do not count a websocket to the same server as 'self'.
    own = f" ws://{host} wss://{host}" if re.fullmatch(r"[\w.:\[\]-]+", host, re.ASCII) else ""
    rules = (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        f"connect-src 'self' data: blob:{own}",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    for name, value in (
        ("Content-Security-Policy", "; ".join(rules)),
        ("X-Frame-Options", "DENY"),
        ("X-Content-Type-Options", "nosniff"),
        # The token stands in the address.
        ("Referrer-Policy", "no-referrer"),
    ):
        if name not in headers:
            headers[name] = value


def _place(address: str) -> str | None:
    try:
        return urllib.parse.urlsplit(address).netloc
    except ValueError:
        return None


def _hostname(address: str) -> str | None:
    try:
        return urllib.parse.urlsplit(address).hostname
    except ValueError:
        return None


def _own_address() -> str:
    """The address that others reach this machine by, as far as it is known; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()
