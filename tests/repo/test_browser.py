"""The watched browser itself: it shows pages of this machine and reports every other request."""

from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from tests.helpers.browser import is_local, open_page

pytestmark = pytest.mark.browser


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = "<!DOCTYPE html><title>here</title><p>你好".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *values: Any) -> None:
        pass


def test_a_page_of_this_machine_is_shown(page: Any) -> None:
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        assert page.inner_text("p") == "你好"
        server.shutdown()


@pytest.mark.parametrize(
    "body",
    [
        '<img src="http://fonts.example.org/a">',
        '<style>@import "https://fonts.example.org/css";</style>',
        '<script>new WebSocket("wss://fonts.example.org/")</script>',
    ],
    ids=["picture", "style", "socket"],
)
def test_a_request_beyond_this_machine_fails_the_test(browser: Any, body: str) -> None:
    def visit() -> None:
        with open_page(browser) as page:
            page.set_content(body, wait_until="load")
            page.wait_for_timeout(100)

    with pytest.raises(AssertionError, match=r"beyond this machine.*fonts\.example\.org"):
        visit()


def test_a_broken_script_fails_the_test(browser: Any) -> None:
    with pytest.raises(AssertionError, match=r"broke.*no_such_name"), open_page(browser) as page:
        page.set_content("<script>no_such_name()</script>")


def test_what_is_local() -> None:
    assert all(map(is_local, ["http://127.0.0.1:7860/a", "ws://localhost:1/", "data:text/css,"]))
    outside = ["http://127.0.0.1.example.org/", "https://10.0.0.1/", "file:///etc/passwd"]
    assert not any(map(is_local, outside))
