"""A file server on loopback that can be told to misbehave, request by request, and that counts what it sends."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Reply:
    """How one request is answered; the default is an honest answer.

    status: answer with that status and no file. send: bytes of the body sent before the connection is closed.
    declare: what is added to Content-Length. ranges: whether Range is understood. to: an address to redirect to.
    content, etag: another version of the file. content_range: a wrong Content-Range. hang: say nothing until `closing`.
    """

    status: int | None = None
    send: int | None = None
    declare: int = 0
    ranges: bool = True
    to: str | None = None
    content: bytes | None = None
    etag: str | None = None
    content_range: str | None = None
    hang: bool = False
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Seen:
    """A request that was made, and how many bytes of a body it was sent."""

    path: str
    range: str | None
    if_range: str | None
    status: int = 0
    sent: int = 0


class Server:
    """`files` by path; `script` holds the replies of a path, used up one by one, then honest ones follow."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.files: dict[str, bytes] = {}
        self.etag: str | None = '"1"'
        self.modified: str | None = None
        self.script: dict[str, list[Reply]] = {}
        self.pace: tuple[int, float] | None = None  # bytes, and seconds to wait after them
        self.seen: list[Seen] = []
        self.closing = threading.Event()

    def put(self, name: str, content: bytes, *replies: Reply) -> str:
        """Serve `content` at the returned address."""
        self.files[f"/{name}"] = content
        self.script[f"/{name}"] = list(replies)
        return f"{self.address}/{name}"

    @property
    def sent(self) -> int:
        return sum(seen.sent for seen in self.seen)


@contextmanager
def serving() -> Iterator[Server]:
    """A threaded server on a free port of loopback."""
    box: list[Server] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            _answer(self, box[0])

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    box.append(Server(f"http://127.0.0.1:{httpd.server_port}"))
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield box[0]
    finally:
        box[0].closing.set()
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def _answer(handler: http.server.BaseHTTPRequestHandler, server: Server) -> None:
    seen = Seen(handler.path, handler.headers.get("Range"), handler.headers.get("If-Range"))
    server.seen.append(seen)
    script = server.script.get(handler.path, [])
    reply = script.pop(0) if script else Reply()
    handler.close_connection = True
    if reply.hang:
        server.closing.wait(20)
        return
    if reply.to or reply.status or handler.path not in server.files:
        seen.status = 302 if reply.to else reply.status or 404
        headers = {"Content-Length": "0", **reply.headers, **({"Location": reply.to} if reply.to else {})}
        return _send(handler, server, seen, headers, b"")
    content = server.files[handler.path] if reply.content is None else reply.content
    etag, first = reply.etag or server.etag, 0
    current = seen.if_range in (None, etag, server.modified)
    asked = re.fullmatch(r"bytes=(\d+)-", seen.range or "")
    if asked and reply.ranges and current:
        first = int(asked[1])
    seen.status = 416 if first and first >= len(content) else 206 if asked and reply.ranges and current else 200
    body = content[first:]
    headers = {"Content-Length": str(len(body) + reply.declare), **reply.headers}
    headers |= {"ETag": etag} if etag else {}
    headers |= {"Last-Modified": server.modified} if server.modified else {}
    if seen.status == 206:
        headers["Content-Range"] = reply.content_range or f"bytes {first}-{len(content) - 1}/{len(content)}"
    if seen.status == 416:
        headers |= {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"}
    body = body[: len(body) + min(reply.declare, 0)]
    return _send(handler, server, seen, headers, body if reply.send is None else body[: reply.send])


def _send(
    handler: http.server.BaseHTTPRequestHandler, server: Server, seen: Seen, headers: dict[str, str], body: bytes
) -> None:
    handler.send_response(seen.status)
    for name, value in {**headers, "Connection": "close"}.items():
        handler.send_header(name, value)
    handler.end_headers()
    step, wait_s = server.pace or (len(body) or 1, 0.0)
    for at in range(0, len(body), step):
        try:
            handler.wfile.write(body[at : at + step])
        except OSError:
            return
        seen.sent += len(body[at : at + step])
        if wait_s and server.closing.wait(wait_s):
            return
