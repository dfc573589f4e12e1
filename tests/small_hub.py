"As much of the model hub as `huggingface_hub` asks for, on this machine, with faults to order."
import hashlib, json, re, threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def commit_of(
    files:dict, # name -> bytes
) -> str: # 40 hexadecimal digits
    "A commit's name, made from its content."
    return hashlib.sha1(b"".join(n.encode() + files[n] for n in sorted(files))).hexdigest()


def sibling(
    name:str, # of a file
    content:bytes, # in it
) -> dict: # as the hub's API lists it with `blobs=True`
    "A file's entry: SHA-256 for what git LFS would take, a blob's SHA-1 otherwise."
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    large = {"lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}}
    small = {"rfilename": name, "size": len(content), "blobId": blob}
    return small if name.endswith(".yaml") else small | large


def entry(
    name:str, # of a file
    content:bytes, # in it
) -> dict: # as the hub's API lists it in a commit's tree
    "A file's entry in the tree, with the same hashes."
    told = sibling(name, content)
    small = {"type": "file", "path": name, "size": len(content), "oid": told["blobId"]}
    if "lfs" not in told: return small
    return small | {"lfs": {"oid": told["lfs"]["sha256"], "size": len(content), "pointerSize": 134}}


@dataclass
class SmallHub:
    "One repository with one branch, and any other files; a context manager."
    files:dict # name -> bytes, in the repository
    others:dict = field(default_factory=dict) # path -> bytes, beside it
    repo:str = "some/codec" # "owner/name"
    hold:str = "" # file that is sent to its half until `go` is set
    cut:dict = field(default_factory=dict) # file -> how often its sending breaks off at half
    served:dict = field(default_factory=dict) # file -> bytes that are sent instead of those announced
    gets:list = field(default_factory=list) # files that were asked for
    half:threading.Event = field(default_factory=threading.Event) # set when the half of `hold` is sent
    go:threading.Event = field(default_factory=threading.Event) # lets `hold` be sent to its end
    token:str = "" # without which no file is given, as of a repository whose licence is to be accepted
    ranges:list = field(default_factory=list) # (file, first byte) of what was gone on with
    down:bool = False # nothing is answered any more, and what is being sent breaks off

    @property
    def url(self): return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        how = dict(kwargs={"poll_interval": 0.05}, daemon=True)
        threading.Thread(target=self._server.serve_forever, **how).start()
        return self

    def __exit__(self, *_): self.stop()

    def stop(self) -> None:
        "Gone, in the middle of whatever it was sending."
        self.down = True
        self.go.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_): pass

    def do_HEAD(self): self._answer(body=False)

    def do_GET(self): self._answer(body=True)

    def _answer(self, body):
        hub, path = self.hub, self.path.partition("?")[0]
        if hub.down: self.close_connection = True; return
        commit = commit_of(hub.files)
        if found := re.fullmatch(f"/api/models/{hub.repo}/revision/(.+)", path):
            if found[1] not in ("main", commit): return self._none("RevisionNotFound")
            listing = {"id": hub.repo, "sha": commit, "siblings": [sibling(*f) for f in hub.files.items()]}
            return self._say(listing)
        if re.fullmatch(f"/api/models/{hub.repo}/tree/({commit}|main)", path):
            return self._say([entry(*f) for f in hub.files.items()])
        found = re.fullmatch(f"/{hub.repo}/resolve/({commit}|main)/(.+)", path)
        name = found[2] if found else path[1:]
        content = (hub.files if found else hub.others).get(name)
        if content is None: return self._none("EntryNotFound")
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            status = 403 if "Authorization" in self.headers else 401
            return self._send(status, b"", {"X-Error-Code": "GatedRepo"})
        if body: hub.gets.append(name)
        content = hub.served.get(name, content)
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit,
                   "X-Linked-Size": str(len(content))}
        self._send_file(name, content, headers, body)

    def _send_file(self, name, content, headers, body):
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        if start and body: self.hub.ranges.append((name, start))
        if start: headers["Content-Range"] = f"bytes {start}-{len(content)-1}/{len(content)}"
        hub, part = self.hub, content[start:]
        cut = body and hub.cut.get(name, 0) > 0
        status = 206 if start else 200
        if not (cut or body and name == hub.hold): return self._send(status, part, headers, body)
        self._head(status, len(part), headers)
        self.wfile.write(part[:len(part) // 2])
        self.wfile.flush()
        hub.half.set()
        if cut: hub.cut[name] -= 1
        else: hub.go.wait(60)
        if cut or hub.down: self.close_connection = True
        else: self.wfile.write(part[len(part) // 2:])

    def _head(self, status, size, headers):
        self.send_response(status)
        for k, v in (headers | {"Content-Length": str(size)}).items(): self.send_header(k, v)
        self.end_headers()

    def _send(self, status, content, headers, body=True):
        self._head(status, len(content), headers)
        if body: self.wfile.write(content)

    def _say(self, answer): self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _none(self, why): self._send(404, b"", {"X-Error-Code": why})
