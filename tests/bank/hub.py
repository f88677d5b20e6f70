"""A stand-in of the Hugging Face Hub on loopback: real HTTP, the part of its API that banks use."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_stand_in"


class Hub(ThreadingHTTPServer):
    """``repos``: name -> commits, newest last, each ``(sha, message, files)``; ``refs``: (name, ref) -> sha.

    Files of at least ``large`` bytes go through LFS; ``stored`` is what was put there: sha256 -> content.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos, self.refs, self.gated, self.requests = {}, {}, set(), []
        self.large, self.stored = 10_000_000, {}
        self.endpoint = f"http://127.0.0.1:{self.server_port}"

    def commit(self, name, files, ref="main", message="by hand"):
        commits = self.repos.setdefault(name, [])
        base = self.files(name, self.refs.get((name, ref)) or self.refs.get((name, "main"))) or {}
        sha = hashlib.sha1(f"{name} {ref} {len(commits)}".encode()).hexdigest()
        commits.append((sha, message, {**base, **files}))
        self.refs[name, ref] = sha
        return sha

    def files(self, name, revision):
        sha = self.refs.get((name, revision), revision)
        return next((files for s, _, files in self.repos.get(name, ()) if s == sha), None)


@contextmanager
def running():
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status=200, body=b"", **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status, code):
        self.answer(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub, path = self.server, unquote(urlsplit(self.path).path).strip("/")
        hub.requests.append((self.command, path))
        api = path.startswith("api/models/")
        owner, repo, what, *rest = [*path.removeprefix("api/models/").split("/"), "revision", "main"]
        rest = rest[:-2] or rest  # a bare repository is its main branch
        name = f"{owner}/{repo}"
        if name in hub.gated:
            return self.refuse(403, "GatedRepo")
        if name not in hub.repos:
            return self.refuse(404, "RepoNotFound")
        revision = "/".join(rest) if api else rest[0]
        files = hub.files(name, revision)
        if files is None:
            return self.refuse(404, "RevisionNotFound")
        sha = hub.refs.get((name, revision), revision)
        if what == "revision":
            return self.answer(body={"id": name, "sha": sha, "private": False, "siblings": [], "tags": []})
        if what == "tree":
            listed = [{"type": "file", "path": p, "size": len(d), "oid": _oid(d)} for p, d in files.items()]
            return self.answer(body=listed)
        data = files.get("/".join(rest[1:]))
        if data is None:
            return self.refuse(404, "EntryNotFound")
        return self.answer(body=data, ETag=f'"{_oid(data)}"', X_Repo_Commit=sha)

    def do_POST(self):
        hub, url = self.server, urlsplit(self.path)
        path = unquote(url.path).strip("/")
        hub.requests.append((self.command, path))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or self.chunks()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid credentials"})
        if path == "api/validate-yaml":
            front = json.loads(body)["content"].split("---\n")[1]
            good = isinstance(yaml.safe_load(front), dict)
            return self.answer(200 if good else 400, {"errors": [] if good else [{"message": "no"}], "warnings": []})
        if path == "api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in hub.repos:
                return self.answer(409, {"error": "You already created this repo", "url": f"{hub.endpoint}/{name}"})
            hub.commit(name, {".gitattributes": b"*.safetensors filter=lfs\n"})
            return self.answer(body={"url": f"{hub.endpoint}/{name}", "id": name})
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.answer(
                body={"transfer": "basic", "objects": [*map(self.lfs_object, json.loads(body)["objects"])]}
            )
        if path.startswith("verify/"):
            asked = json.loads(body)
            there = len(hub.stored.get(asked["oid"], b"")) == asked["size"]
            return self.answer(200 if there else 404, {})
        owner, repo, what, *rest = path.removeprefix("api/models/").split("/")
        name, revision = f"{owner}/{repo}", "/".join(rest)
        if what == "preupload":
            asked = json.loads(body)["files"]
            mode = {f["path"]: "lfs" if f["size"] >= hub.large else "regular" for f in asked}
            return self.answer(
                body={"files": [{"path": p, "uploadMode": mode[p], "shouldIgnore": False} for p in mode]}
            )
        lines = [json.loads(line) for line in body.splitlines()]
        files = {x["value"]["path"]: base64.b64decode(x["value"]["content"]) for x in lines if x["key"] == "file"}
        files |= {x["value"]["path"]: hub.stored[x["value"]["oid"]] for x in lines if x["key"] == "lfsFile"}
        pull = "create_pr" in parse_qs(url.query)
        ref = "refs/pr/1" if pull else revision
        sha = hub.commit(name, files, ref, lines[0]["value"]["summary"])
        found = {"commitUrl": f"{hub.endpoint}/{name}/commit/{sha}", "commitOid": sha, "success": True}
        return self.answer(body={**found, "pullRequestUrl": f"{hub.endpoint}/{name}/discussions/1"} if pull else found)

    def lfs_object(self, asked):
        """Where to put a file, or nothing to do for one that is there; its address is its right to be there."""
        if asked["oid"] in self.server.stored:
            return asked
        there = {part: {"href": f"{self.server.endpoint}/{part}/{asked['oid']}"} for part in ("upload", "verify")}
        return {**asked, "actions": there}

    def do_PUT(self):
        self.server.requests.append((self.command, self.path.strip("/")))
        data, oid = self.rfile.read(int(self.headers["Content-Length"])), self.path.rpartition("/")[2]
        if hashlib.sha256(data).hexdigest() != oid:
            return self.answer(400, {"error": "other content"})
        self.server.stored[oid] = data
        return self.answer()

    def chunks(self):
        """A body sent in chunks, as commits are."""
        data = b""
        while "chunked" in (self.headers.get("Transfer-Encoding") or "") and (
            size := int(self.rfile.readline().strip() or b"0", 16)
        ):
            data += self.rfile.read(size)
            self.rfile.readline()
        return data


def _oid(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
