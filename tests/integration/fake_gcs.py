"""Google Cloud Storage on the loopback, in memory: as much of its JSON API as gcsfs, TensorStore and Orbax use.

As there: an object appears whole or not at all, nothing can be renamed but object by object, there are no folders,
writes and deletes may be conditional on the object's generation (OCDBT commits so), and lists come in pages.
"""

import dataclasses
import json
import re
import threading
import uuid
from collections.abc import Mapping
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = 20  # names in an answer to a list, few enough for a second page to be asked for
OBJECT = re.compile(r"/(?:download/)?storage/v1/b/([^/]+)/o/([^/]+)")
LIST = re.compile(r"/storage/v1/b/([^/]+)/o/?")
BUCKET = re.compile(r"/storage/v1/b/([^/]+)")
UPLOAD = re.compile(r"/(?:resumable/)?upload/storage/v1/b/([^/]+)/o/?")
TO = re.compile(r"/storage/v1/b/([^/]+)/o/([^/]+)/(rewriteTo|moveTo)(?:/b/([^/]+))?/o/([^/]+)")
CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
Name = tuple[str, str]  # bucket, object


@dataclasses.dataclass(frozen=True)
class Object:
    """What is stored under one name."""

    data: bytes
    generation: int


@dataclasses.dataclass
class Upload:
    """A resumable upload that goes on."""

    name: Name
    condition: str | None
    data: bytearray = dataclasses.field(default_factory=bytearray)


class FakeGcs(ThreadingHTTPServer):
    """A server with some empty buckets; a context manager that serves in a thread."""

    daemon_threads, request_queue_size = True, 128

    def __init__(self, *buckets: str):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.buckets = frozenset(buckets)
        self.objects: dict[Name, Object] = {}
        self.uploads: dict[str, Upload] = {}
        self.lock = threading.RLock()
        self._generation = 0

    @property
    def environment(self) -> dict[str, str]:
        """Variables that point gcsfs, TensorStore and Google's own client here."""
        url = f"http://127.0.0.1:{self.server_port}"
        return {
            "STORAGE_EMULATOR_HOST": url,
            "TENSORSTORE_GCS_HTTP_URL": url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "anyone",  # TensorStore looks for no credentials then
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks for a bucket's kind by gRPC, which is not spoken here
        } | dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1")

    def __enter__(self) -> "FakeGcs":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Says nothing of clients that are gone."""

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        """Names of a bucket's objects, sorted."""
        with self.lock:
            return sorted(name for of, name in self.objects if of == bucket and name.startswith(prefix))

    def write(self, name: Name, data: bytes) -> Object:
        """Puts an object in the place of the one before."""
        with self.lock:
            self._generation += 1
            self.objects[name] = Object(bytes(data), self._generation)
            return self.objects[name]


class _Refused(Exception):
    """Answered by an HTTP status and a reason."""


class _Handler(BaseHTTPRequestHandler):
    server: FakeGcs
    protocol_version = "HTTP/1.1"
    wbufsize, disable_nagle_algorithm = 1 << 16, True

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def _serve(self) -> None:
        methods = {"GET": self._get, "POST": self._post, "PUT": self._post, "DELETE": self._delete}
        parts = urlsplit(self.path)
        self.route = parts.path
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            with self.server.lock:
                methods[self.command]()
        except _Refused as refused:
            error = dict(zip(("code", "message"), refused.args, strict=True))
            self._answer(error["code"], json.dumps({"error": error}).encode())

    do_GET = do_POST = do_PUT = do_DELETE = _serve

    def _get(self) -> None:
        if name := self._match(OBJECT):
            found = self._find(name)
            if self.query.get("ifGenerationNotMatch") == str(found.generation):
                self._answer(304, b"")
            elif self.query.get("alt") == "media":
                self._send_media(found)
            else:
                self._send_json(_metadata(name, found))
        elif bucket := self._match(LIST):
            self._list(*bucket)
        elif bucket := self._match(BUCKET):
            self._send_json({"kind": "storage#bucket", "name": bucket[0], "location": "US"})
        else:
            raise _Refused(400, f"GET {self.route} is not spoken here")

    def _post(self) -> None:
        if "upload_id" in self.query:
            self._continue_upload(self.query["upload_id"])
        elif bucket := self._match(UPLOAD):
            self._upload(*bucket)
        elif found := self._match(TO):
            bucket, source, verb, to_bucket, target = found
            copied = self._find((bucket, source))
            name = (to_bucket or bucket, target)
            self._send_json({"done": True, **_metadata(name, self.server.write(name, copied.data))})
            if verb == "moveTo":
                del self.server.objects[bucket, source]
        else:
            raise _Refused(400, f"POST {self.route} is not spoken here")

    def _delete(self) -> None:
        name = self._match(OBJECT)
        if name is None:
            raise _Refused(400, f"DELETE {self.route} is not spoken here")
        self._find(name)
        del self.server.objects[name]
        self._answer(204, b"")

    def _upload(self, bucket: str) -> None:
        kind, condition = self.query.get("uploadType"), self.query.get("ifGenerationMatch")
        if kind == "media":
            self._write(Upload((bucket, self.query["name"]), condition, bytearray(self.body)))
        elif kind == "multipart":
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            boundary = BytesParser().parsebytes(head).get_boundary().encode()
            _, meta, media, _ = self.body.split(b"--" + boundary)
            described, data = (re.split(rb"\r?\n\r?\n", part, maxsplit=1)[1] for part in (meta, media))
            self._write(Upload((bucket, json.loads(described)["name"]), condition, bytearray(data.removesuffix(b"\n"))))
        else:
            name = self.query.get("name") or json.loads(self.body)["name"]
            session = uuid.uuid4().hex
            self.server.uploads[session] = Upload((bucket, name), condition)
            where = f"http://{self.headers['Host']}{self.route}?uploadType=resumable&upload_id={session}"
            self._answer(200, b"", {"Location": where})

    def _continue_upload(self, session: str) -> None:
        upload = self.server.uploads[session]
        start, total = CONTENT_RANGE.fullmatch(self.headers["Content-Range"]).groups()
        if start is not None:
            upload.data[int(start) :] = self.body
        if total != "*" and len(upload.data) == int(total):
            self._write(self.server.uploads.pop(session))
        else:
            self._answer(308, b"", {"Range": f"bytes=0-{len(upload.data) - 1}"} if upload.data else None)

    def _write(self, upload: Upload) -> None:
        found = self.server.objects.get(upload.name)
        if upload.name[0] not in self.server.buckets:
            raise _Refused(404, f"there is no bucket {upload.name[0]}")
        if upload.condition is not None and int(upload.condition) != (found.generation if found else 0):
            raise _Refused(412, f"{upload.name[1]} is of another generation")
        self._send_json(_metadata(upload.name, self.server.write(upload.name, upload.data)))

    def _list(self, bucket: str) -> None:
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter")
        first, stop = self.query.get("startOffset", ""), self.query.get("endOffset", "\U0010ffff")
        shown = []  # each a name, or the beginning of several that ends with the delimiter
        for name in self.server.names(bucket, prefix):
            head, cut, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if first <= name < stop:
                shown.append((prefix + head + cut, True) if cut else (name, False))
        after, size = self.query.get("pageToken", ""), min(PAGE, int(self.query.get("maxResults", PAGE)))
        left = [entry for entry in dict.fromkeys(shown) if entry[0] > after]
        page = left[:size]
        items = [_metadata((bucket, name), self.server.objects[bucket, name]) for name, cut in page if not cut]
        answer = {"kind": "storage#objects", "items": items, "prefixes": [name for name, cut in page if cut]}
        self._send_json(answer | ({"nextPageToken": page[-1][0]} if len(left) > size else {}))

    def _send_media(self, found: Object) -> None:
        data, status = found.data, 200
        headers = {"x-goog-generation": str(found.generation), "Content-Type": "application/octet-stream"}
        if wanted := self.headers.get("Range"):
            first, last = wanted.removeprefix("bytes=").split("-")
            start = int(first) if first else max(0, len(data) - int(last))
            stop = min(len(data), int(last) + 1) if first and last else len(data)
            if start >= stop:
                raise _Refused(416, f"{wanted} of {len(data)} bytes")
            status, headers["Content-Range"] = 206, f"bytes {start}-{stop - 1}/{len(data)}"
            data = data[start:stop]
        self._answer(status, data, headers)

    def _match(self, pattern: re.Pattern) -> tuple | None:
        found = pattern.fullmatch(self.route)
        return tuple(part and unquote(part) for part in found.groups()) if found else None

    def _find(self, name: Name) -> Object:
        if name not in self.server.objects:
            raise _Refused(404, f"no such object: {'/'.join(name)}")
        found = self.server.objects[name]
        if self.query.get("ifGenerationMatch") not in (None, str(found.generation)):
            raise _Refused(412, f"{name[1]} is of another generation")
        return found

    def _send_json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode())

    def _answer(self, status: int, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        described = {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
        for name, value in described.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def _metadata(name: Name, found: Object) -> dict[str, str]:
    numbers = {"size": str(len(found.data)), "generation": str(found.generation), "metageneration": "1"}
    described = {"kind": "storage#object", "bucket": name[0], "name": name[1], "updated": "2024-01-01T00:00:00.000Z"}
    return described | numbers
