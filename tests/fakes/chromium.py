"""Headless Chromium over a pipe of the DevTools protocol: no driver to install, no port, no network.

    with Browser(folder) as browser:
        browser.open(page)
        browser.evaluate("document.title")
"""  # fmt: skip

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ABSENT = f"no Chromium on this machine (looked for {', '.join(NAMES)}): apt-get install chromium, as .ci/run does"
_SECONDS = 120.0  # patience with a busy machine
_KEYS = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9}


def find_chromium() -> str | None:
    return next((path for path in map(shutil.which, NAMES) if path), None)


def _started(program: str, arguments: list[str], commands: int, answers: int) -> int:
    """Start Chromium with its pipe at the file numbers that it expects, 3 and 4; return its process id."""
    high = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 10) for number in (commands, answers)]
    actions: list[Any] = [(os.POSIX_SPAWN_DUP2, number, at) for number, at in zip(high, (3, 4), strict=True)]
    actions += [(os.POSIX_SPAWN_OPEN, at, os.devnull, os.O_WRONLY, 0) for at in (1, 2)]
    process = os.posix_spawn(program, [program, *arguments], dict(os.environ), file_actions=actions)
    for number in high:
        os.close(number)
    return process


class Browser:
    """One tab. `errors` holds exceptions and messages of warning or worse; `requests` what was asked of a network."""

    def __init__(self, folder: Path, width: int = 1500, height: int = 1000) -> None:
        self.folder, self.size = folder, (width, height)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._number, self._waiting = 0, b""
        self._answers: dict[int, Any] = {}
        self._events: list[str] = []

    def __enter__(self) -> Browser:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        arguments = [
            "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
            f"--user-data-dir={self.folder}", f"--window-size={self.size[0]},{self.size[1]}", "about:blank",
        ]  # fmt: skip
        self._process = _started(str(find_chromium()), arguments, theirs_in, theirs_out)
        os.close(theirs_in)
        os.close(theirs_out)
        self._session = ""
        tabs = self.ask("Target.getTargets")["targetInfos"]
        tab = next(target["targetId"] for target in tabs if target["type"] == "page")
        self._session = self.ask("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        return self

    def __exit__(self, *error: Any) -> None:
        self._session = ""
        self._send("Browser.close", {})
        end = time.monotonic() + 20
        while os.waitpid(self._process, os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                os.kill(self._process, signal.SIGKILL)
            time.sleep(0.05)
        os.close(self._in)
        os.close(self._out)

    def ask(self, method: str, **parameters: Any) -> Any:
        """Send a command and return its answer."""
        number = self._send(method, parameters)
        self._until(lambda: number in self._answers, method)
        answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer.get('error')}"
        return answer["result"]

    def _send(self, method: str, parameters: dict[str, Any]) -> int:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if getattr(self, "_session", ""):
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        return self._number

    def _until(self, done: Any, what: str) -> None:
        end = time.monotonic() + _SECONDS
        while not done():
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"Chromium did not answer within {_SECONDS:.0f} s: {what}"
            read = os.read(self._in, 2**20)
            assert read, f"Chromium ended during {what}"
            *messages, self._waiting = (self._waiting + read).split(b"\0")
            for message in messages:
                self._take(json.loads(message))

    def _take(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._answers[message["id"]] = message
            return
        method, values = message["method"], message["params"]
        self._events.append(method)
        if method == "Runtime.exceptionThrown":
            details = values["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Log.entryAdded" and values["entry"]["level"] in ("warning", "error"):
            self.errors.append(values["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and values["type"] in ("warning", "error", "assert"):
            self.errors.append(str(values["args"]))
        elif method == "Network.requestWillBeSent" and not values["request"]["url"].startswith("data:"):
            self.requests.append(values["request"]["url"])

    def open(self, page: Path) -> None:
        """Open a file and wait until its script has run."""
        self._events.clear()
        self.ask("Page.navigate", url=page.resolve().as_uri())
        self._until(lambda: "Page.loadEventFired" in self._events, f"loading {page}")
        self.wait("document.documentElement.dataset.ready === 'yes'")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page; promises are awaited."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until an expression holds."""
        end = time.monotonic() + _SECONDS
        while not self.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < end, f"never true: {condition}"
            time.sleep(0.05)

    def move(self, x: float, y: float) -> None:
        """The pointer to a place in the window."""
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        self.move(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """A key by its name."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        code = {"windowsVirtualKeyCode": _KEYS[key]} if key in _KEYS else {}
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, **text, **code)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key, **code)

    def screenshot(self, path: Path, whole: bool = False) -> Path:
        shot = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path
