"""A model hub on loopback that answers huggingface_hub from memory."""

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import unquote, urlsplit

TOKEN = "hf_secretsecretsecret"
_LARGE = (".safetensors", ".onnx", ".stablehlo")  # in LFS, at another address


class HubServer:
    """Repositories by name, each with commits (path -> content) and branches.

    `fault` makes it fail: "401", "500", "cut" (files end early) or "changed" (bytes of files differ
    from their digests). `requests` has "METHOD path" of every request.
    """

    def __init__(self):
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.private: dict[str, bool] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.fault = ""
        self.connections: list[socket.socket] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in self.connections:  # clients keep them open
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def commit(self, repository: str, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Add files to a branch; return the id of the new commit."""
        branches = self.branches.setdefault(repository, {})
        before = self.commits.setdefault(repository, {}).get(branches.get(branch, ""), {})
        content = before | dict(files)
        listing = json.dumps({name: _oid(data) for name, data in content.items()}, sort_keys=True)
        commit = hashlib.sha1(f"{len(self.commits[repository])} {listing}".encode()).hexdigest()
        self.commits[repository][commit] = content
        branches[branch] = commit
        return commit


def _oid(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_large(name: str) -> bool:
    return name.endswith(_LARGE)


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            hub.connections.append(self.connection)

        def do_GET(self) -> None:
            path = self._begin()
            if hub.fault in ("401", "500"):
                return self._fail(int(hub.fault), "")
            if found := re.fullmatch(r"/cdn/(\w+)", path):
                return self._file(hub.blobs[found[1]])
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                return self._info(found[1], found[2] or "main")
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+).*", path):
                return self._tree(found[1], found[2])
            if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                return self._resolve(*found.groups())
            return self._fail(404, "")

        do_HEAD = do_GET

        def do_PUT(self) -> None:
            found = re.fullmatch(r"/lfs/(\w+)", self._begin())
            hub.blobs[found[1]] = self._body
            self._json({})

        def do_POST(self) -> None:
            path = self._begin()
            if path == "/api/validate-yaml":
                return self._json({"warnings": [], "errors": []})
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self._fail(401, "")
            arguments = None if "/commit/" in path else json.loads(self._body or b"{}")
            if path == "/api/repos/create":
                return self._create(arguments)
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/(.+)", path):
                hub.branches[found[1]].setdefault(found[2], hub.branches[found[1]]["main"])
                return self._json({})
            if "/preupload/" in path:
                modes = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if _is_large(file["path"]) else "regular",
                        "shouldIgnore": False,
                    }
                    for file in arguments["files"]
                ]
                return self._json({"files": modes})
            if path.endswith(".git/info/lfs/objects/batch"):
                objects = [
                    entry | {"actions": {"upload": {"href": f"{hub.url}/lfs/{entry['oid']}"}}}
                    for entry in arguments["objects"]
                ]
                return self._json({"transfer": "basic", "objects": objects})
            found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path)
            return self._commit(*found.groups())

        def _begin(self) -> str:
            self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.requests.append(f"{self.command} {self.path}")
            return unquote(urlsplit(self.path).path)

        def _create(self, arguments: dict) -> None:
            name = f"{arguments['organization']}/{arguments['name']}"
            if name in hub.commits:
                return self._fail(409, "", {"url": f"{hub.url}/{name}"})
            hub.private[name] = arguments.get("private", arguments.get("visibility") == "private")
            hub.commit(name, {".gitattributes": b""})
            return self._json({"url": f"{hub.url}/{name}", "name": name})

        def _commit(self, repository: str, branch: str) -> None:
            files = {}
            for line in self._body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    files[value["path"]] = hub.blobs[value["oid"]]
            commit = hub.commit(repository, files, branch)
            url = f"{hub.url}/{repository}/commit/{commit}"
            self._json({"commitUrl": url, "commitOid": commit, "success": True})

        def _find(self, repository: str, revision: str) -> str | None:
            """Return the id of the commit; if it does not exist, answer so and return None."""
            if repository not in hub.commits:
                return self._fail(404, "RepoNotFound")
            commit = hub.branches[repository].get(revision, revision)
            if commit not in hub.commits[repository]:
                return self._fail(404, "RevisionNotFound")
            return commit

        def _info(self, repository: str, revision: str) -> None:
            if commit := self._find(repository, revision):
                names = hub.commits[repository][commit]
                siblings = [{"rfilename": name} for name in names]
                self._json({"id": repository, "sha": commit, "siblings": siblings, "tags": []})

        def _tree(self, repository: str, revision: str) -> None:
            if commit := self._find(repository, revision):
                self._json(
                    [
                        {"type": "file", "path": name, "size": len(data), "oid": _oid(data)[:40]}
                        | ({"lfs": _lfs(data)} if _is_large(name) else {})
                        for name, data in hub.commits[repository][commit].items()
                    ]
                )

        def _resolve(self, repository: str, revision: str, name: str) -> None:
            commit = self._find(repository, revision)
            if commit is None:
                return None
            content = hub.commits[repository][commit].get(name)
            if content is None:
                return self._fail(404, "EntryNotFound")
            headers = {"X-Repo-Commit": commit}
            if not _is_large(name):
                return self._file(content, headers | {"ETag": f'"{_oid(content)[:40]}"'})
            hub.blobs[_oid(content)] = content
            headers |= {
                # Another host, like a content network; clients take the digests from this answer.
                "Location": f"{hub.url.replace('127.0.0.1', 'localhost')}/cdn/{_oid(content)}",
                "X-Linked-ETag": f'"{_oid(content)}"',
                "X-Linked-Size": str(len(content)),
            }
            return self._answer(302, b"", headers)

        def _file(self, content: bytes, headers: Mapping[str, str] | None = None) -> None:
            if hub.fault == "changed" and len(content) > 100:
                content = content[:-9] + bytes(byte ^ 1 for byte in content[-9:])
            if hub.fault == "cut" and self.command == "GET":
                self.close_connection = True
                self._answer(200, content[: len(content) // 2], headers, length=len(content))
                return
            self._answer(200, content, headers)

        def _json(self, content: object) -> None:
            headers = {"Content-Type": "application/json"}
            self._answer(200, json.dumps(content).encode(), headers)

        def _fail(self, status: int, code: str, content: dict | None = None) -> None:
            headers = {"X-Error-Code": code} if code else {}
            text = json.dumps({"error": "no"} | (content or {})).encode()
            self._answer(status, text, headers | {"Content-Type": "application/json"})

        def _answer(
            self,
            status: int,
            content: bytes,
            headers: Mapping[str, str] | None = None,
            length: int | None = None,
        ) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content) if length is None else length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _lfs(content: bytes) -> dict:
    return {"oid": _oid(content), "sha256": _oid(content), "size": len(content), "pointerSize": 130}
