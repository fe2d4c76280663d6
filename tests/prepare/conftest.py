"""A web server on this machine that misbehaves as told."""

from __future__ import annotations

import email.utils
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class Site:
    """The files of the server, and its behaviour."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    etag: str | None = '"1"'
    ranges: bool = True
    if_range: bool = True
    """False: it continues a download of a file that changed"""
    cuts: list[int] = field(default_factory=list)
    """of the coming answers: bytes of the body after which the connection is closed"""
    says: list[int] = field(default_factory=list)
    """status codes of the next answers, instead of the file"""
    pause: float = 0.0
    """seconds before the body of every answer"""
    slow: float = 0.0
    """seconds after every 1,000 bytes"""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """(path, Range) of every request"""

    def url(self, file: str) -> str:
        return f"{self.address}/{file}"

    def ranges_asked(self) -> list[str | None]:
        return [given for _, given in self.asked]


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: object) -> None:
            pass

        def do_GET(self) -> None:
            self.close_connection = True
            wanted = self.headers.get("Range")
            site.asked.append((self.path, wanted))
            data = site.files.get(self.path.lstrip("/"))
            status = site.says.pop(0) if site.says else 200 if data is not None else 404
            if status != 200 or data is None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            first = 0
            same = not site.if_range or self.headers.get("If-Range") in (None, site.etag)
            if wanted and site.ranges and same:
                found = re.fullmatch(r"bytes=(\d+)-", wanted)
                assert found, wanted
                first = int(found[1])
                if first >= len(data):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(data)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(data) - first))
            if site.etag is None:
                self.send_header("Last-Modified", email.utils.formatdate(1e9, usegmt=True))
            else:
                self.send_header("ETag", site.etag)
            self.end_headers()
            time.sleep(site.pause)
            body = data[first : first + site.cuts.pop(0)] if site.cuts else data[first:]
            try:
                for start in range(0, len(body), 1000) if site.slow else [0]:
                    self.wfile.write(body[start : start + 1000] if site.slow else body)
                    self.wfile.flush()
                    time.sleep(site.slow)
            except OSError:
                pass  # the other side has gone

    return Handler


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for key in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(key, raising=False)
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(site))
    server.daemon_threads = True
    site.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield site
    server.shutdown()
    server.server_close()
    thread.join()
