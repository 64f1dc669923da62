"""Stands in for a service where a test is about processes: answers 200 on HELIOGRAPH_PORT until ended."""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


ThreadingHTTPServer((os.environ["HELIOGRAPH_HOST"], int(os.environ["HELIOGRAPH_PORT"])), Handler).serve_forever()
