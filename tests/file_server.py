"""A real HTTP server for one file: it answers ranges, and can be made to fail in the usual ways."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Serves `content` at `url` from a thread until `stop`; `asked` holds the Range headers.

    break_after: close the line after so many bytes of an answer, once.
    gone: answer 404.
    etag: False leaves the version out; ranges: False ignores ranges, as some servers do.
    """

    def __init__(self, content: bytes, port: int = 0, etag: bool = True, ranges: bool = True):
        self.content, self.etag, self.ranges = content, etag, ranges
        self.break_after: int | None = None
        self.gone = False
        self.asked: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/weights.pth"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def version(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()[:16]}"'

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.asked.append(wanted)
        if self.gone:
            request.send_error(404)
            return
        total, first = len(self.content), 0
        same = request.headers.get("If-Range", self.version()) == self.version()
        if wanted and self.ranges and same:
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if first >= total:
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{total}")
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {first}-{total - 1}/{total}")
        else:
            request.send_response(200)
        if self.etag:
            request.send_header("ETag", self.version())
        body = self.content[first:]
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        cut, self.break_after = self.break_after, None
        request.wfile.write(body[:cut])
        request.close_connection = True
