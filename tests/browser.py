"""Pages in headless Chromium, told what to do over its debugging protocol."""

import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--enable-unsafe-swiftshader", "--hide-scrollbars"),
    # no name is found, so whatever a page would load from outside is an error of the console
    *("--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND"),
    *("--remote-debugging-port=0", "--remote-allow-origins=*", "about:blank"),
)


class Browser:
    """A Chromium with one page; skips the test where there is none, or nothing to talk to it."""

    def __init__(self) -> None:
        websocket = pytest.importorskip("websocket", reason="no websocket-client here")
        if CHROMIUM is None:
            pytest.skip("no chromium on this machine")
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command = [CHROMIUM, *FLAGS[:-1], f"--user-data-dir={self.folder.name}", FLAGS[-1]]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        found = (re.search(r"ws://[\d.]+:(\d+)", line) for line in self.process.stderr)
        port = next(match[1] for match in found if match)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            page = next(one for one in json.load(answer) if one["type"] == "page")
        self.socket = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=120)
        self.events: list[dict] = []
        self.asked = 0
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **settings: Any) -> dict:
        """Ask the page for something; what it reports meanwhile is kept."""
        self.asked += 1
        self.socket.send(json.dumps({"id": self.asked, "method": method, "params": settings}))
        while (said := json.loads(self.socket.recv())).get("id") != self.asked:
            self.events.append(said)
        assert "error" not in said, said
        return said["result"]

    def open(
        self, page: Path, width: int = 1440, dark: bool = False, media: str = "", query: str = ""
    ) -> None:  # fmt: skip
        """Open a file at a width, and wait until it is loaded."""
        self.events.clear()
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900,
                  deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.call("Page.navigate", url=page.as_uri() + query)
        while not any(said.get("method") == "Page.loadEventFired" for said in self.events):
            self.events.append(json.loads(self.socket.recv()))

    def value(self, code: str) -> Any:
        """Return the value of an expression of JavaScript, awaited where it is a promise."""
        said = self.call("Runtime.evaluate", expression=code, returnByValue=True,
                         awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    def holds(self, code: str, seconds: float = 60) -> bool:
        """Wait until an expression is true; return whether it became so."""
        end = time.monotonic() + seconds
        while not (true := self.value(f"!!({code})")) and time.monotonic() < end:
            time.sleep(0.1)
        return true

    def errors(self) -> list[str]:
        """Return what the console says of errors since the page was opened."""
        self.value("new Promise(done => setTimeout(done, 300))")
        said = [(one["method"], one["params"]) for one in self.events if "method" in one]
        return [json.dumps(what)[:500] for method, what in said
                if method == "Runtime.exceptionThrown"
                or (method == "Log.entryAdded" and what["entry"]["level"] == "error")
                or (method == "Runtime.consoleAPICalled" and what["type"] == "error")]  # fmt: skip

    def close(self) -> None:
        """End this Chromium."""
        self.process.terminate()
        self.process.wait(20)
        self.folder.cleanup()
