"""A stand-in for the Hugging Face Hub on this machine: what its client asks for, and the ways in which a download fails."""

import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """One repository with files. Tests set what goes wrong.

    Args:
        repo: "OWNER/REPO".
        files: {name: bytes}.
    """

    def __init__(self, repo: str, files: dict):
        self.repo, self.files = repo, files
        self.n_cut = None  #: end the next download after so many bytes
        self.damaged = set()  #: names of files that arrive with other bytes
        self.status = None  #: (status, X-Error-Code) that everything is answered with
        self.requests = []  #: (method, path, Range header or None)

    def downloads(self) -> list:
        """(name, Range header or None) of each file that was sent."""
        start = f"/{self.repo}/resolve/"
        sent = [(path, part) for method, path, part in self.requests if method == "GET" and path.startswith(start)]
        return [(path.removeprefix(start).partition("/")[2], part) for path, part in sent]

    def listing(self) -> dict:
        """What the hub says of the repository."""
        siblings = []
        for name, data in self.files.items():
            lfs = {"sha256": _sha256(data), "size": len(data), "pointerSize": 134}
            siblings.append({"rfilename": name, "size": len(data), "blobId": "0" * 40, "lfs": lfs})
        said = {"id": self.repo, "modelId": self.repo, "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "likes": 0}
        return {**said, "siblings": siblings}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _handler(hub: Hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self._answer("HEAD")

        def do_GET(self):
            self._answer("GET")

        def _answer(self, method):
            path = self.path.partition("?")[0]
            hub.requests.append((method, path, self.headers.get("Range")))
            if hub.status:
                return self._send(hub.status[0], b"", {"X-Error-Code": hub.status[1]} if hub.status[1] else {})
            if path.startswith(f"/api/models/{hub.repo}"):
                return self._send(200, json.dumps(hub.listing()).encode(), {"Content-Type": "application/json"})
            _, found, rest = path.partition(f"/{hub.repo}/resolve/")
            data = hub.files.get(rest.partition("/")[2]) if found else None
            if data is None:
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound" if found else "RepoNotFound"})
            self._file(rest.partition("/")[2], data, method)

        def _file(self, name, data, method):
            digest = _sha256(data)
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{digest}"', "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
            data = bytes(len(data)) if name in hub.damaged else data
            status, start = 200, 0
            if method == "GET" and self.headers.get("Range"):
                start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
                status = 206
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self._send(status, data[start:], headers, is_head=method == "HEAD")

        def _send(self, status, data, headers, is_head=False):
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if is_head:
                return
            if hub.n_cut is not None and status in (200, 206) and len(data) > hub.n_cut and "ETag" in headers:
                self.wfile.write(data[: hub.n_cut])
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()
                return
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    return Handler


@contextlib.contextmanager
def serve(hub: Hub):
    """Serve a Hub; gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    server.handle_error = lambda *args: None  # a connection that a test cut
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
