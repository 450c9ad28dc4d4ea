"""No test speaks to another machine, but those that say so; 192.0.2.1 is nobody's (RFC 5737)."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Callable

import pytest

ELSEWHERE = ("192.0.2.1", 80)
WAYS: dict[str, Callable[[socket.socket], object]] = {
    "connect": lambda s: s.connect(ELSEWHERE),
    "connect_ex": lambda s: s.connect_ex(ELSEWHERE),
    "sendto": lambda s: s.sendto(b"", ELSEWHERE),
    "create_connection": lambda s: socket.create_connection(ELSEWHERE, timeout=1),
    "getaddrinfo": lambda s: socket.getaddrinfo("name.invalid", 80),
    "urllib": lambda s: urllib.request.build_opener(urllib.request.ProxyHandler({})).open("http://name.invalid"),
}


def blocked(way: str) -> bool:
    with socket.socket(type=socket.SOCK_DGRAM if way == "sendto" else socket.SOCK_STREAM) as opened:
        opened.settimeout(1)
        try:
            WAYS[way](opened)
        except pytest.fail.Exception:
            return True
        except OSError:
            pass
    return False


@pytest.fixture(scope="module")
def at_setup() -> dict[str, bool]:
    return {way: blocked(way) for way in WAYS}


@pytest.mark.parametrize("way", WAYS)
def test_another_machine_is_not_spoken_to(at_setup: dict[str, bool], way: str) -> None:
    """Nor by a fixture that serves a whole file."""
    assert blocked(way)
    assert at_setup[way]


@pytest.mark.parametrize("need", [pytest.param(n, marks=getattr(pytest.mark, n)) for n in ("browser", "sshd")])
def test_who_is_marked_speaks_freely(need: str) -> None:
    assert not {"connect", "connect_ex", "sendto"} & vars(socket.socket).keys()
    assert socket.getaddrinfo.__module__ == "socket"


def test_this_machine_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()
        assert socket.getaddrinfo("localhost", server.getsockname()[1])
