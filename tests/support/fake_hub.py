"""A model hub on loopback: repositories, preupload, LFS by the basic transfer, and commits, as huggingface_hub asks."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_test"


@dataclass
class Hub:
    """What was uploaded, and how the hub answers.

    Attributes:
        files: Contents by repository and name.
        default: The visibility of repositories if the request names none.
        status: If it is not 200, the answer to every request.
    """

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)  # LFS objects by SHA-256
    requests: list[str] = field(default_factory=list)
    default: str = "public"
    status: int = 200


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Print nothing."""

        def read(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def send(self, tree: Any, status: int = 200) -> None:
            data = json.dumps(tree).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def refused(self) -> bool:
            hub.requests.append(f"{self.command} {self.path}")
            if hub.status == 200 and self.headers.get("Authorization") not in (f"Bearer {TOKEN}", None):
                self.send({"error": "Invalid token"}, 401)
                return True
            if hub.status != 200:
                self.send({"error": "no"}, hub.status)
            return hub.status != 200

        def do_PUT(self) -> None:
            data = self.read()
            if not self.refused():
                hub.stored[self.path.rsplit("/", 1)[-1]] = data
                self.send({})

        def do_GET(self) -> None:
            if self.refused():
                return
            repo = self.path.removeprefix("/api/models/")
            if repo in hub.files:
                self.send({"id": repo, "private": hub.private[repo]})
            else:
                self.send({"error": "not found"}, 404)

        def do_POST(self) -> None:
            data = self.read()
            if self.refused():
                return
            path = self.path.partition("?")[0]
            if path == "/api/repos/create":
                asked = json.loads(data)
                repo = "/".join(filter(None, (asked.get("organization"), asked["name"])))
                exists = repo in hub.files
                if not exists:
                    hub.private[repo] = asked.get("visibility", hub.default) == "private"
                    hub.files[repo] = {}
                self.send({"url": f"{hub.url}/{repo}", "name": repo}, 409 if exists else 200)
            elif path == "/api/validate-yaml":
                self.send({"errors": [], "warnings": []})
            elif "/preupload/" in path:
                self.send({"files": [
                    {"path": file["path"], "shouldIgnore": False,
                     "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".gguf")) else "regular"}
                    for file in json.loads(data)["files"]
                ]})  # fmt: skip
            elif path.endswith("/info/lfs/objects/batch"):
                objects = json.loads(data)["objects"]
                self.send({"transfer": "basic", "objects": [
                    {**each, "actions": {"upload": {"href": f"{hub.url}/lfs/{each['oid']}"}}} for each in objects
                ]})  # fmt: skip
            else:
                self.commit(path, data)

        def commit(self, path: str, data: bytes) -> None:
            repo = path.removeprefix("/api/models/").rpartition("/commit/")[0]
            for line in data.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    hub.files[repo][value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    hub.files[repo][value["path"]] = hub.stored[value["oid"]]
            self.send({"success": True, "commitOid": "0" * 40, "commitUrl": f"{hub.url}/{repo}/commit/{'0' * 40}",
                       "hookOutput": ""})  # fmt: skip

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
