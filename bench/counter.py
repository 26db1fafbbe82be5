"""A client that only counts: `python -m bench.counter HOST PORT SESSION` runs one turn."""

import json
import socket
import sys
import time

from bench.wire import raw_request

PIECE = 256 * 1024
TAIL = 4096
DONE = b'"type":"done"'


def count(host: str, port: int, session_id: str) -> dict[str, object]:
    """Until the server closes. Nothing but events has line ends, once the head is off."""
    with socket.create_connection((host, port)) as connection:
        path, body = f"/sessions/{session_id}/query", b'{"prompt": "go"}'
        began = time.perf_counter()
        connection.sendall(raw_request("POST", path, body))
        head, _, last = _head(connection)
        assert b" 200 " in head, head
        events = last.count(b"\n")
        while piece := connection.recv(PIECE):
            events += piece.count(b"\n")
            last = (last + piece)[-TAIL:]
        seconds = time.perf_counter() - began
    return {"events": events, "seconds": seconds, "done": DONE in last}


def _head(connection: socket.socket) -> tuple[bytes, bytes, bytes]:
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(PIECE)
        assert piece, received
        received += piece
    return received.partition(b"\r\n\r\n")


if __name__ == "__main__":
    print(json.dumps(count(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
