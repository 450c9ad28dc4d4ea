"""A server on this machine that speaks as much of the Hugging Face Hub as its client asks for."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class StandIn(ThreadingHTTPServer):
    """Repositories by their names, each a mapping of paths to contents; `asked` is every method and path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit_of(self, name: str) -> str:
        content = repr(sorted(self.repositories[name].items())).encode()
        return hashlib.sha1(content, usedforsecurity=False).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """The requests of `model_info`, `hf_hub_download`, `create_repo` and `create_commit`."""

    server: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def _send(self, code: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, content: Any, code: int = 200) -> None:
        self._send(code, json.dumps(content).encode(), Content_Type="application/json")

    def _path(self) -> list[str]:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        return path.strip("/").split("/")

    def do_GET(self) -> None:
        parts = self._path()
        name = "/".join(parts[2:4] if parts[:2] == ["api", "models"] else parts[:2])
        files = self.server.repositories.get(name)
        if files is None:
            return self._send(404, X_Error_Code="RepoNotFound")
        commit = self.server.commit_of(name)
        if parts[0] == "api":
            return self._json({"id": name, "sha": commit, "siblings": [{"rfilename": f} for f in files]})
        content = files.get("/".join(parts[4:]))
        if parts[2:4] != ["resolve", commit] or content is None:
            return self._send(404, X_Error_Code="EntryNotFound")
        tag = hashlib.sha256(content).hexdigest()
        return self._send(200, content, ETag=f'"{tag}"', X_Repo_Commit=commit)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        parts, length = self._path(), int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if self.headers.get("Authorization") != "Bearer of-a-test":
            return self._send(401)
        if parts[-1] == "create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.server.repositories.setdefault(name, {})
            return self._json({"url": f"{self.server.address}/{name}", "name": name})
        if "preupload" in parts:
            files = json.loads(body)["files"]
            return self._json(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            )
        if "commit" in parts:
            name = "/".join(parts[2:4])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.repositories[name][line["value"]["path"]] = content
            commit = self.server.commit_of(name)
            return self._json(
                {"commitUrl": f"{self.server.address}/{name}/commit/{commit}", "commitOid": commit, "success": True}
            )
        return self._json({"errors": [], "warnings": []})


@contextlib.contextmanager
def stand_in() -> Iterator[StandIn]:
    """The server, while it runs."""
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
