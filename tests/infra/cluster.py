"""The part of a cluster's API that Prefect's worker speaks to, with the rights that the rendered Role gives it.

A stand-in, as no API server runs without a cluster: it keeps the Jobs that it is told to create, runs none of them, and
refuses what the Role does not allow.
"""

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

VERBS = {"POST": "create", "DELETE": "delete", "PATCH": "patch", "PUT": "update"}
RESOURCES = {
    "v1": [("namespaces", "Namespace", False), ("pods", "Pod", True), ("events", "Event", True)],
    "batch/v1": [("jobs", "Job", True)],
}


@dataclass
class Cluster:
    """What has been asked of the API, what was created, and what was refused."""

    allowed: set[tuple[str, str]]
    url: str = ""
    created: list[dict[str, Any]] = field(default_factory=list)
    asked: set[tuple[str, str]] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    def kubeconfig(self, path: Path) -> Path:
        """Write how to reach the API."""
        here = {"cluster": "here", "user": "worker", "namespace": "genxfer"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": {"server": self.url}}],
            "users": [{"name": "worker", "user": {"token": "none"}}],
            "contexts": [{"name": "here", "context": here}],
            "current-context": "here",
        }
        path.write_text(yaml.safe_dump(config))
        return path


@contextlib.contextmanager
def cluster(role: dict[str, Any]) -> Iterator[Cluster]:
    """Yield an API on 127.0.0.1 that allows what `role` does."""
    rules = role["rules"]
    allowed = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    found = Cluster(allowed)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or "null")
            parts = urlsplit(self.path)
            words = [word for word in parts.path.split("/") if word]
            if "namespaces" not in words:
                return self.answer(*discovery(words))
            resource, *name = words[words.index("namespaces") + 2 :] or ["namespaces"]
            resource = "/".join([resource, *name[1:]])
            watching = parse_qs(parts.query).get("watch", ["false"])[0] in ("true", "1", "True")
            verb = VERBS.get(self.command) or ("watch" if watching else "get" if name else "list")
            found.asked.add((resource, verb))
            if (resource, verb) not in found.allowed:
                found.refused.append(f"{self.command} {self.path}")
                return self.answer(403, {"kind": "Status", "status": "Failure", "code": 403, "message": "forbidden"})
            if verb == "watch":
                return self.watch()
            if verb == "create":
                body["metadata"] |= {"name": body["metadata"]["generateName"] + "1", "uid": "1"}
                found.created.append(body)
                return self.answer(201, body)
            return self.answer(200, {"kind": "List", "metadata": {"resourceVersion": "1"}, "items": []})

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = handle_any  # noqa: N815  so the base class wants it

        def answer(self, status: int, body: Any) -> None:
            encoded = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        def watch(self) -> None:
            """Say nothing, for as long as somebody listens."""
            self.close_connection = True
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            found.closing.wait()

        def log_message(self, format: str, *args: Any) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield found
    finally:
        found.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def discovery(words: list[str]) -> tuple[int, Any]:
    """Return which resources there are, as every client may ask."""
    if words == ["version"]:
        return 200, {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
    if words == ["api"]:
        return 200, {"kind": "APIVersions", "versions": ["v1"]}
    if words == ["apis"]:
        version = {"groupVersion": "batch/v1", "version": "v1"}
        group = {"name": "batch", "versions": [version], "preferredVersion": version}
        return 200, {"kind": "APIGroupList", "groups": [group]}
    version_asked = "/".join(words[1:])
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    resources = [
        {"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": verbs}
        for name, kind, namespaced in RESOURCES.get(version_asked, [])
    ]
    if not resources:
        return 404, {"kind": "Status", "status": "Failure", "code": 404, "message": "not found"}
    return 200, {"kind": "APIResourceList", "groupVersion": version_asked, "resources": resources}
