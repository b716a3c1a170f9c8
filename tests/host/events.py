"""What a running ComfyUI tells its page: events over its websocket."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import uuid
from typing import Any

TEXT, CLOSE = 1, 8


class Events:
    """The events of one page, to be used in a `with` block; `client` is the page's name in a prompt."""

    def __init__(self, port: int, seconds: float = 180.0) -> None:
        self.client = uuid.uuid4().hex
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        self._stream = self._socket.makefile("rb")
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET /ws?clientId={self.client} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}",
        ]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        while self._stream.readline().strip():
            pass

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()
        self._socket.close()

    def next(self) -> tuple[str, dict[str, Any]]:
        """The next event, as (type, data); pictures and the protocol's own messages are passed over."""
        while True:
            kind, length = self._stream.read(2)
            if length >= 126:
                form = ">H" if length == 126 else ">Q"
                (length,) = struct.unpack(form, self._stream.read(struct.calcsize(form)))
            body = self._stream.read(length)
            if kind & 0xF == CLOSE:
                raise ConnectionError("ComfyUI closed the connection")
            if kind & 0xF == TEXT:
                event = json.loads(body)
                return event["type"], event.get("data") or {}

    def until(self, kind: str, **words: Any) -> dict[str, Any]:
        """Data of the next event of this type with these entries."""
        while True:
            found, data = self.next()
            if found == kind and all(data.get(word) == value for word, value in words.items()):
                return data
