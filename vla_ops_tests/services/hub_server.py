"""A server that speaks the Hugging Face Hub's HTTP API to the real huggingface_hub client, for want of a Hub that can be installed.

It keeps repositories as git does: commits with a parent, trees of blobs, branches and tags; large files by their SHA-256. It refuses
what the Hub refuses: unknown tokens, foreign organisations, a parent that is not the head, large files that were never uploaded.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from vla_ops_tests.services.hub_repos import Blob, Commit, Repo, sha1

WRITE, READ = "hf_writewritewritewrite", "hf_readreadreadread"
_PAGE = 40
_REGULAR_UP_TO = 10 << 20
_KINDS = {"models": "model", "datasets": "dataset"}


# What happens to a request in its place: nothing, an answer, or (True) the answer is lost after it was done.
type Trouble = web.Response | bool | None


@dataclass
class HubServer:
    """A running Hub. `folder` keeps the large files. Everybody may write to the organisation `lab` with the token WRITE."""

    folder: Path
    endpoint: str = ""
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    # Method and path of every request.
    asked: list[str] = field(default_factory=list)
    trouble: Callable[[str, str], Trouble] = lambda *_: None
    # Whether a large file's upload is not answered yet.
    held: Callable[[], bool] = lambda: False
    # Large files get parts of this size where it is set, as the Hub's do above 5 GB.
    part_size: int | None = None
    # The query of URLs to which large files go.
    sign: str = ""

    def repo(self, name: str, kind: str = "model") -> Repo:
        """A repository that is there."""
        return self.repos[kind, name]

    def content(self, repo: Repo, path: str, revision: str = "main") -> bytes:
        """What a file of a revision holds."""
        commit = repo.at(revision)
        assert commit is not None, revision
        return self._content(commit.tree[path])

    def make(self, name: str, kind: str = "model", *, private: bool = True, files: Mapping[str, bytes] | None = None) -> Repo:
        """A repository as somebody made it on the Hub's page."""
        repo = self.repos[kind, name] = Repo(kind, name, private)
        tree = {path: self.add(content) for path, content in {".gitattributes": b"*.bin filter=lfs\n", **(files or {})}.items()}
        repo.commit(tree, "main", "initial commit")
        return repo

    def _content(self, blob: Blob) -> bytes:
        return self.blobs[blob.oid] if blob.sha256 is None else (self.folder / blob.sha256).read_bytes()

    def add(self, content: bytes) -> Blob:
        """Content that a commit may name."""
        oid = sha1(b"blob %d\0" % len(content) + content)
        self.blobs[oid] = content
        return Blob(oid, len(content))

    # --- the API

    @web.middleware
    async def answer(self, request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
        """Answer one request, or make trouble."""
        self.asked.append(f"{request.method} {request.path}")
        trouble = self.trouble(request.method, request.path)
        if isinstance(trouble, web.Response):
            return trouble
        answer = await handler(request)
        if trouble and request.transport is not None:
            request.transport.abort()
        return answer

    def _allowed(self, request: web.Request, owner: str, *, to_write: bool) -> None:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in (WRITE, READ):
            raise _refused(
                web.HTTPUnauthorized, "Invalid credentials in Authorization header" if token else "Invalid username or password."
            )
        if to_write and (token == READ or owner != "lab"):
            said = f'You don\'t have the rights to create a model under the namespace "{owner}"'
            raise _refused(web.HTTPForbidden, said)

    def _repo(self, request: web.Request, *, to_write: bool = False) -> Repo:
        kind = _KINDS[request.match_info.get("kind", "models")]
        owner, name = request.match_info["owner"], request.match_info["name"].removesuffix(".git")
        self._allowed(request, owner, to_write=False)
        repo = self.repos.get((kind, f"{owner}/{name}"))
        if repo is None:
            raise _refused(web.HTTPNotFound, "Repository not found", code="RepoNotFound")
        self._allowed(request, owner, to_write=to_write)
        return repo

    def _commit(self, request: web.Request, repo: Repo) -> Commit:
        revision = request.match_info.get("revision", "main")
        commit = repo.at(revision)
        if commit is None:
            raise _refused(web.HTTPNotFound, f"Invalid rev id: {revision}", code="RevisionNotFound")
        return commit

    async def create(self, request: web.Request) -> web.Response:
        told = await request.json()
        owner = told["organization"] or "somebody"
        self._allowed(request, owner, to_write=True)
        kind, name = told.get("type") or "model", f"{owner}/{told['name']}"
        url = f"{self.endpoint}/{'datasets/' if kind == 'dataset' else ''}{name}"
        if (kind, name) in self.repos:
            return web.json_response({"error": "You already created this repo", "url": url}, status=409)
        self.make(name, kind, private=told.get("visibility") == "private")
        return web.json_response({"url": url, "id": name, "name": name})

    async def validate_yaml(self, request: web.Request) -> web.Response:
        told = await request.json()
        errors = [] if told["content"].startswith("---\n") else [{"message": "no metadata"}]
        return web.json_response({"errors": errors, "warnings": []}, status=400 if errors else 200)

    async def listed(self, request: web.Request) -> web.Response:
        self._allowed(request, "lab", to_write=False)
        kind, owner = _KINDS[request.match_info["kind"]], request.query.get("author", "")
        found = [repo for (its, name), repo in sorted(self.repos.items()) if its == kind and name.startswith(f"{owner}/")]
        tag = request.query.get("filter")
        return web.json_response([self._told(repo, repo.at("main")) for repo in found if tag is None or tag in self._tags(repo)])

    async def info(self, request: web.Request) -> web.Response:
        repo = self._repo(request)
        told = self._told(repo, self._commit(request, repo))
        asked = request.query.getall("expand", [])
        return web.json_response({name: told[name] for name in ("_id", "id", *asked)} if asked else told)

    def _told(self, repo: Repo, commit: Commit | None) -> dict[str, Any]:
        assert commit is not None
        siblings = [{"rfilename": path} for path in commit.tree]
        told = {"_id": "1", "id": repo.name, "modelId": repo.name, "sha": commit.oid, "private": repo.private, "siblings": siblings}
        return told | {"tags": self._tags(repo), "downloads": 0, "likes": 0}

    def _tags(self, repo: Repo) -> list[str]:
        import yaml

        tree = repo.head.tree
        card = self._content(tree["README.md"]).decode() if "README.md" in tree else ""
        try:
            return yaml.safe_load(card.split("---\n")[1])["tags"] if card.startswith("---\n") else []
        except (yaml.YAMLError, KeyError):
            return []

    async def may_write(self, request: web.Request) -> web.Response:
        self._repo(request, to_write=True)
        return web.json_response({})

    async def refs(self, request: web.Request) -> web.Response:
        repo = self._repo(request)

        def told(where: str, refs: Mapping[str, str]) -> list[dict[str, str]]:
            return [{"name": name, "ref": f"refs/{where}/{name}", "targetCommit": oid} for name, oid in refs.items()]

        return web.json_response({"branches": told("heads", repo.branches), "tags": told("tags", repo.tags), "converts": []})

    async def tree(self, request: web.Request) -> web.Response:
        repo = self._repo(request)
        commit, below = self._commit(request, repo), request.match_info.get("path", "")
        inside = {path: blob for path, blob in sorted(commit.tree.items()) if not below or path.startswith(f"{below}/")}
        if not inside and below:
            raise _refused(web.HTTPNotFound, f"{below} does not exist", code="EntryNotFound")
        entries = [blob.to_json(path) for path, blob in inside.items()]
        if request.query.get("recursive", "false").lower() != "true":
            depth = len(below.split("/")) if below else 0
            folders = {"/".join(path.split("/")[: depth + 1]) for path in inside if len(path.split("/")) > depth + 1}
            here = [entry for entry in entries if len(entry["path"].split("/")) == depth + 1]
            entries = [{"type": "directory", "path": name, "size": 0, "oid": sha1(name.encode())} for name in sorted(folders)] + here
        start = int(request.query.get("cursor", 0))
        headers = {}
        if start + _PAGE < len(entries):
            following = request.url.update_query(cursor=str(start + _PAGE))
            headers["Link"] = f'<{following}>; rel="next"'
        return web.json_response(entries[start : start + _PAGE], headers=headers)

    async def paths_info(self, request: web.Request) -> web.Response:
        repo = self._repo(request)
        tree = self._commit(request, repo).tree
        told = await request.json() if request.content_type == "application/json" else await request.post()
        asked = told["paths"] if isinstance(told, dict) else told.getall("paths")
        found = [tree[path].to_json(path) for path in asked if path in tree]
        folders = [path for path in asked if any(name.startswith(f"{path}/") for name in tree)]
        return web.json_response(found + [{"type": "directory", "path": path, "size": 0, "oid": sha1(path.encode())} for path in folders])

    async def preupload(self, request: web.Request) -> web.Response:
        repo = self._repo(request, to_write=True)
        tree, told = self._commit(request, repo).tree, await request.json()
        ignored = told.get("gitIgnore")
        if ignored is None:
            ignored = self._content(tree[".gitignore"]).decode() if ".gitignore" in tree else ""
        return web.json_response({"files": [_upload_of(each, tree.get(each["path"]), ignored=ignored) for each in told["files"]]})

    async def batch(self, request: web.Request) -> web.Response:
        self._repo(request, to_write=True)
        told = await request.json()
        objects = [self._object(each) for each in told["objects"]]
        transfer = (
            "multipart" if self.part_size and any("header" in each.get("actions", {}).get("upload", {}) for each in objects) else "basic"
        )
        return web.json_response({"transfer": transfer, "objects": objects}, content_type="application/vnd.git-lfs+json")

    def _object(self, told: Mapping[str, Any]) -> dict[str, Any]:
        oid, size = told["oid"], told["size"]
        if (self.folder / oid).is_file():
            return {"oid": oid, "size": size}
        at = f"{self.endpoint}/lfs/{oid}"
        upload: dict[str, Any] = {"href": at + self.sign}
        if self.part_size and size > self.part_size:
            parts = {str(k + 1): f"{at}/part/{k}" for k in range(-(-size // self.part_size))}
            upload = {"href": f"{at}/complete", "header": {"chunk_size": str(self.part_size), **parts}}
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": {"href": f"{at}/verify"}}}

    async def put_object(self, request: web.Request) -> web.Response:
        content = await request.read()
        while self.held():
            await asyncio.sleep(0.005)
        return self._keep(request.match_info["oid"], content)

    async def put_part(self, request: web.Request) -> web.Response:
        content, oid = await request.read(), request.match_info["oid"]
        (self.folder / f"{oid}.{int(request.match_info['part']):05d}").write_bytes(content)
        return web.Response(headers={"ETag": f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'})

    async def complete(self, request: web.Request) -> web.Response:
        oid = request.match_info["oid"]
        parts = sorted(self.folder.glob(f"{oid}.*"))
        answer = self._keep(oid, b"".join(part.read_bytes() for part in parts))
        for part in parts:
            part.unlink()
        return answer

    def _keep(self, oid: str, content: bytes) -> web.Response:
        if hashlib.sha256(content).hexdigest() != oid:
            return web.json_response({"error": "the content is not what its oid says"}, status=400)
        part = self.folder / f"{oid}.part"
        part.write_bytes(content)
        part.rename(self.folder / oid)
        return web.Response()

    async def verify(self, request: web.Request) -> web.Response:
        told = await request.json()
        file = self.folder / told["oid"]
        return web.Response(status=200 if file.is_file() and file.stat().st_size == told["size"] else 404)

    async def commit(self, request: web.Request) -> web.Response:
        # Of two that come at once the second one is onto the first: from here on nothing else is answered in between.
        lines = [json.loads(line) for line in (await request.read()).splitlines()]
        repo = self._repo(request, to_write=True)
        head = self._commit(request, repo)
        branch = request.match_info["revision"]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in (None, head.oid):
            return web.json_response({"error": "A commit has happened since. Please refresh and try again."}, status=412)
        tree = dict(head.tree)
        for line in lines:
            self._apply(tree, line["key"], line["value"])
        made = repo.commit(tree, branch, header["summary"])
        url = f"{self.endpoint}/{repo.name}/commit/{made.oid}"
        return web.json_response({"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""})

    def _apply(self, tree: dict[str, Blob], key: str, value: Mapping[str, Any]) -> None:
        if key == "file":
            tree[value["path"]] = self.add(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            file = self.folder / value["oid"]
            if not file.is_file():
                raise _refused(web.HTTPBadRequest, f"LFS pointer pointed to a file that does not exist: {value['path']}")
            size = file.stat().st_size
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{value['oid']}\nsize {size}\n".encode()
            tree[value["path"]] = Blob(sha1(b"blob %d\0" % len(pointer) + pointer), size, value["oid"])
        elif key == "deletedFile":
            if value["path"] not in tree:
                raise _refused(web.HTTPNotFound, "A file with this name doesn't exist", code="EntryNotFound")
            del tree[value["path"]]

    async def ref(self, request: web.Request) -> web.Response:
        repo, what = self._repo(request, to_write=True), request.match_info["what"]
        refs, named = (repo.branches, "branch") if what == "branch" else (repo.tags, "tag")
        # A new tag is named in the body, behind the revision that it is of.
        told = await request.json() if request.can_read_body else {}
        name = told["tag"] if named == "tag" and request.method == "POST" else request.match_info["ref"]
        if request.method == "DELETE":
            if name not in refs:
                raise _refused(web.HTTPNotFound, f"no {named} {name}", code="RevisionNotFound")
            del refs[name]
            return web.Response()
        if name in refs:
            return web.json_response({"error": f"Reference already exists: {name}"}, status=409)
        commit = repo.at(told.get("startingPoint", "main") if named == "branch" else request.match_info["ref"])
        if commit is None:
            raise _refused(web.HTTPNotFound, "Invalid rev id", code="RevisionNotFound")
        refs[name] = commit.oid
        return web.Response(status=201)

    async def resolve(self, request: web.Request) -> web.Response:
        repo = self._repo(request)
        commit, path = self._commit(request, repo), request.match_info["path"]
        blob = commit.tree.get(path)
        if blob is None:
            raise _refused(web.HTTPNotFound, "Entry not found", code="EntryNotFound")
        content, asked = self._content(blob), request.http_range
        part = content[asked]
        headers = {"ETag": f'"{blob.sha256 or blob.oid}"', "X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if "Range" not in request.headers:
            return web.Response(body=content, headers=headers)
        if not part:
            return web.Response(status=416, headers=headers | {"Content-Range": f"bytes */{len(content)}"})
        start = range(len(content))[asked].start
        headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
        return web.Response(status=206, body=part, headers=headers)

    def app(self) -> web.Application:
        """All of its ways."""
        app = web.Application(middlewares=[self.answer], client_max_size=1 << 30)
        add = app.router.add_route
        api, raw = "/api/{kind:models|datasets}/{owner}/{name}", "/{kind:datasets}/{owner}/{name}"
        add("POST", "/api/repos/create", self.create)
        add("POST", "/api/validate-yaml", self.validate_yaml)
        add("GET", "/api/{kind:models|datasets}", self.listed)
        for way in (api, api + "/revision/{revision}"):
            add("GET", way, self.info)
        add("GET", api + "/auth-check/write", self.may_write)
        add("GET", api + "/refs", self.refs)
        add("GET", api + "/tree/{revision}", self.tree)
        add("GET", api + "/tree/{revision}/{path:.+}", self.tree)
        add("POST", api + "/paths-info/{revision}", self.paths_info)
        add("POST", api + "/preupload/{revision}", self.preupload)
        add("POST", api + "/commit/{revision}", self.commit)
        for method in ("POST", "DELETE"):
            add(method, api + "/{what:branch|tag}/{ref}", self.ref)
        add("PUT", "/lfs/{oid}", self.put_object)
        add("PUT", "/lfs/{oid}/part/{part}", self.put_part)
        add("POST", "/lfs/{oid}/complete", self.complete)
        add("POST", "/lfs/{oid}/verify", self.verify)
        for way in (raw, "/{owner}/{name}"):
            add("POST", way + "/info/lfs/objects/batch", self.batch)
            for method in ("GET", "HEAD"):
                add(method, way + "/resolve/{revision}/{path:.+}", self.resolve)
        return app


def _upload_of(told: Mapping[str, Any], there: Blob | None, *, ignored: str) -> dict[str, Any]:
    is_ignored = any(line and told["path"].startswith(line) for line in ignored.splitlines())
    sample = base64.b64decode(told["sample"])
    mode = "lfs" if told["size"] > _REGULAR_UP_TO or not _is_text(sample) else "regular"
    oid = None if there is None else there.sha256 or there.oid
    return {"path": told["path"], "uploadMode": mode, "shouldIgnore": is_ignored, "oid": oid}


def _is_text(sample: bytes) -> bool:
    try:
        # The sample may end within a character.
        return b"\0" not in sample and sample.decode("utf-8", errors="ignore").encode() in (sample, sample[:-1], sample[:-2], sample[:-3])
    except ValueError:
        return False


def _refused(kind: type[web.HTTPException], said: str, code: str | None = None) -> web.HTTPException:
    headers = {"X-Error-Message": said} | ({"X-Error-Code": code} if code else {})
    return kind(text=json.dumps({"error": said}), content_type="application/json", headers=headers)
