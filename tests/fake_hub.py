"""A stand-in for the Hub on the loopback interface, for the real `huggingface_hub` client."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeHub:
    """As much of the Hub as a push of small files needs; keeps what it was told."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.refuse: dict[str, int] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                exists = "create" not in outer.refuse
                self.answer(200 if exists else 404, {"id": "me/tea", "sha": "0" * 40})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                call = self.path.split("?")[0].removeprefix("/api/")
                lines = [json.loads(line) for line in body.splitlines() if line]
                outer.requests.append((self.path.removeprefix("/api/"), lines))
                for part, status in outer.refuse.items():
                    if part in call:
                        return self.answer(status, {"error": "so says the server"})
                if call.endswith("/create"):
                    return self.answer(200, {"url": f"{outer.url}/me/tea"})
                if "/preupload/" in call:
                    files = [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for f in lines[0]["files"]
                    ]
                    return self.answer(200, {"files": files})
                if "/commit/" in call:
                    for line in lines[1:]:
                        value = line["value"]
                        outer.files[value["path"]] = base64.b64decode(value["content"])
                    answer = {"commitOid": "a" * 40, "commitUrl": f"{outer.url}/me/tea/commit/aaa"}
                    if "create_pr=1" in self.path:
                        answer["pullRequestUrl"] = f"{outer.url}/me/tea/discussions/1"
                    return self.answer(200, answer)
                return self.answer(200, {})

            def answer(self, status: int, value: Any) -> None:
                content = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def calls(self) -> list[str]:
        return [path for path, _ in self.requests]

    def close(self) -> None:
        """Listen no more; calling it twice does no harm."""
        self.server.shutdown()
        self.server.server_close()
