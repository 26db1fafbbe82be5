"""As little client as possible, so that it is the server that is measured."""

import json
import time
from http.client import HTTPConnection, HTTPResponse
from typing import Any, Self
from urllib.parse import urlsplit

from tests.e2e.server import API_KEY, Server

HEADERS = {"X-API-Key": API_KEY, "X-User": "admin"}
TEXT = b'"type":"text"'


class Wire:
    """One connection that is kept open."""

    def __init__(self, server: Server) -> None:
        self._http = HTTPConnection(urlsplit(server.url).netloc)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(self, method: str, path: str, **fields: Any) -> Any:
        body = self._send(method, path, fields).read()
        return json.loads(body) if body else None

    def create(self) -> str:
        session: dict[str, str] = self.ask("POST", "/sessions")
        return session["id"]

    def turn(self, session_id: str, prompt: str) -> float:
        """One whole turn; the seconds to its first text."""
        began = time.perf_counter()
        response = self._send("POST", f"/sessions/{session_id}/query", {"prompt": prompt})
        for line in response:
            if TEXT in line:
                seconds = time.perf_counter() - began
                response.read()
                return seconds
        raise AssertionError("the turn ended without a word")

    def _send(self, method: str, path: str, fields: dict[str, Any]) -> HTTPResponse:
        body = json.dumps(fields) if fields else None
        self._http.request(method, path, body, HEADERS)
        response = self._http.getresponse()
        assert response.status < 400, response.read()
        return response


def raw_request(method: str, path: str, body: bytes = b"", *, version: str = "1.0") -> bytes:
    """By HTTP/1.0 an answer comes without a frame around each piece, and ends with the line."""
    fields = {"Host": "localhost", "Content-Length": str(len(body)), **HEADERS}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/{version}\r\n{head}\r\n".encode() + body
