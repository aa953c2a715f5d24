"""Who gets in: this machine, or whoever knows the token; pages and websockets alike."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
import viser
import websockets.sync.client as ws
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from studio.errors import StudioError
from studio.viewer.access import Access, Server, free_port, is_loopback

TOKEN = "0123456789abcdefXYZ-_"
PROTOCOL = Subprotocol(f"viser-v{viser.__version__}")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost", "LOCALHOST", "::1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    assert Access.make(host, None).token is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org", "127.0.0.1.example.org", ""])
def test_addresses_beyond_this_machine_get_a_token(host: str) -> None:
    assert not is_loopback(host)
    first, second = Access.make(host, None).token, Access.make(host, None).token
    assert first is not None
    assert second is not None
    assert len(first) >= 24
    assert first != second


@pytest.mark.parametrize("token", ["short", "has/slashes-in-it-somewhere", "ünicode-letters-here", "a b c d e f g h i"])
def test_bad_tokens_are_refused(token: str) -> None:
    with pytest.raises(StudioError, match="--token"):
        Access.make("127.0.0.1", token)


@pytest.mark.parametrize(
    ("path", "host", "origin", "admitted"),
    [
        ("/", "127.0.0.1:7007", None, "/"),
        ("/x?y", "localhost:7007", "http://localhost:7007", "/x?y"),
        ("/", "[::1]:7007", "http://[::1]:7007", "/"),
        ("/", "evil.example:7007", None, None),  # DNS rebinding
        ("/", "127.0.0.1:7007", "http://evil.example", None),  # a page of the web opens a websocket
        ("/", "127.0.0.1:7007", "http://127.0.0.1:9999", None),
        ("/", "127.0.0.1:7007", "null", None),
        ("/", None, None, None),
        ("/", "[broken", None, None),
        ("/", "127.0.0.1:7007", "http://[broken", None),
        ("/", "127.0.0.1:7007", "\udcff", None),
    ],
)
def test_requests_without_a_token(path: str, host: str | None, origin: str | None, admitted: str | None) -> None:
    assert Access("127.0.0.1").admit(path, host, origin) == admitted


@pytest.mark.parametrize(
    ("path", "admitted"),
    [
        (f"/{TOKEN}", "/"),
        (f"/{TOKEN}/", "/"),
        (f"/{TOKEN}/?a=b", "/"),
        (f"/{TOKEN}/file.js", "/file.js"),
        ("/", None),
        (f"/{TOKEN[:-1]}", None),
        (f"/{TOKEN}x/", None),
        (f"/file?{TOKEN}", None),
        ("/é", None),
        ("/\udcc3\udca9/", None),  # as the server hands over bytes that are not ASCII
    ],
)
def test_requests_with_a_token(path: str, admitted: str | None) -> None:
    assert Access("0.0.0.0", TOKEN).admit(path, "any.example", "http://any.example") == admitted


def test_addresses_to_open() -> None:
    assert Access("127.0.0.1").url(7007) == "http://127.0.0.1:7007/"
    assert Access("::1").url(80) == "http://[::1]:80/"
    assert Access("10.0.0.1", TOKEN).url(7) == f"http://10.0.0.1:7/{TOKEN}/"
    assert "0.0.0.0" not in Access("0.0.0.0", TOKEN).url(7)


def test_a_port_in_use_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port("127.0.0.1", port) > port
    with pytest.raises(StudioError, match="--host"):
        free_port("203.0.113.77", 7007)
    with pytest.raises(StudioError, match="--host"):
        free_port("no such host", 7007)


@pytest.fixture(scope="module")
def open_server() -> Iterator[Server]:
    server = Server(Access.make("127.0.0.1", None), 0)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def guarded_server() -> Iterator[Server]:
    server = Server(Access.make("127.0.0.1", TOKEN), 0)
    yield server
    server.stop()


def status(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def websocket_status(url: str, **options: str) -> int:
    try:
        with ws.connect(url.replace("http", "ws"), subprotocols=[PROTOCOL], max_size=None, **options) as connection:
            connection.recv(timeout=20)
            return 101
    except InvalidStatus as error:
        return error.response.status_code


def test_the_page_and_its_websocket_on_this_machine(open_server: Server) -> None:
    url = open_server.url
    origin = url.rstrip("/")
    assert status(url) == 200
    assert websocket_status(url, origin=origin) == 101
    assert status(url, Host="evil.example") == 403
    assert websocket_status(url, origin="http://evil.example") == 403


def test_nothing_opens_without_the_token(guarded_server: Server) -> None:
    url = guarded_server.url
    bare = url.replace(f"{TOKEN}/", "")
    assert TOKEN not in bare
    assert status(url) == 200
    assert status(bare) == 403
    assert status(f"{bare}{TOKEN[:-1]}x/") == 403
    # The page opens the websocket at its own address, without the last slash.
    assert websocket_status(url.rstrip("/")) == 101
    assert websocket_status(bare) == 403
    assert websocket_status(f"{bare}{TOKEN[:-1]}x") == 403


def raw(server: Server, lines: bytes) -> bytes:
    """The first line of the answer to a request that no browser would send."""
    with socket.create_connection(("127.0.0.1", server.get_port()), timeout=20) as connection:
        connection.sendall(lines)
        return connection.recv(4096).split(b"\r\n")[0]


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        (b"/\xc3\xa9", b"Host: HERE\r\n", b"400"),
        (b"/", b"Host: HERE\r\nHost: HERE\r\n", b"400"),
        (b"/", b"Host: HERE\r\nOrigin: http://HERE\r\nOrigin: http://HERE\r\n", b"400"),
        (b"/", b"Host: HERE\r\nOrigin: http://[broken\r\n", b"403"),
        (b"/", b"Host: HERE\r\nOrigin: \xff\xfe\r\n", b"403"),
        (b"/", b"Host: [broken\r\n", b"403"),
        (b"/", b"", b"403"),
        (b"/" + b"a" * 3000, b"Host: HERE\r\n", b"400"),
        (b"/" + b"a/" * 400, b"Host: HERE\r\n", b"404"),
        (b"/%00", b"Host: HERE\r\n", b"400"),
        (b"/../../../../etc/passwd", b"Host: HERE\r\n", b"40"),
    ],
)
def test_odd_requests_are_refused(open_server: Server, path: bytes, headers: bytes, expected: bytes) -> None:
    here = f"127.0.0.1:{open_server.get_port()}".encode()
    said = raw(open_server, b"GET " + path + b" HTTP/1.1\r\n" + headers.replace(b"HERE", here) + b"\r\n")
    assert said.startswith(b"HTTP/1.1 " + expected), said


def test_odd_tokens_are_refused(guarded_server: Server) -> None:
    for token in (b"\xc3\xa9", b"\xff\xfe", b"a" * 4000):
        said = raw(guarded_server, b"GET /" + token + b"/ HTTP/1.1\r\nHost: x\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 403"), said


def test_the_page_may_not_be_framed_and_reaches_nothing_else(open_server: Server) -> None:
    with urllib.request.urlopen(open_server.url, timeout=20) as answer:
        policy = dict(rule.split(" ", 1) for rule in answer.headers["Content-Security-Policy"].split("; "))
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["default-src"] == "'self'"
    assert f"ws://127.0.0.1:{open_server.get_port()}" in policy["connect-src"].split()
    assert not any("*" in rule or "https:" in rule.split() for rule in policy.values())
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(open_server.url, headers={"Host": "evil.example"}), timeout=20)
    assert "frame-ancestors 'none'" in refused.value.headers["Content-Security-Policy"]


def test_servers_are_not_published(open_server: Server) -> None:
    assert open_server.request_share_url() is None


def test_a_server_that_cannot_be_guarded_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    import contextlib
    import threading

    import studio.viewer.access as access

    @contextlib.contextmanager
    def nothing(given: Access) -> Iterator[threading.Event]:
        yield threading.Event()

    monkeypatch.setattr(access, "_guarded", nothing)
    with pytest.raises(StudioError, match="cannot be guarded"):
        Server(Access.make("127.0.0.1", None), 0)
