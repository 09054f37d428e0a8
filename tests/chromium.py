"""A headless Chromium that tests look at pages with: it clicks, types, points and takes pictures.

It is driven by its own DevTools protocol over a websocket (tornado's client, which distributed
brings), so that no driver or library is needed but the browser itself.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

COMMAND = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(COMMAND is None, reason="no Chromium is installed")
_PATIENCE_S = 30.0
_KEYS = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
_TEXTS = """(selector) => [...document.querySelectorAll(selector)]
  .filter((one) => one.checkVisibility()).map((one) => one.innerText)"""
_PLACE = """(selector) => {
  const one = document.querySelector(selector);
  one.scrollIntoView({block: "center"});
  const box = one.getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
}"""
_CHOOSE = """(selector, value) => {
  const one = document.querySelector(selector);
  one.value = value;
  one.dispatchEvent(new Event("change", {bubbles: true}));
  return one.value === value;
}"""


class Page:
    """A page in the browser. Positions are CSS pixels from the top left of what is seen."""

    def __init__(self, socket: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._socket, self._loop = socket, loop
        self._number = 0
        self.errors: list[str] = []
        """What its scripts threw, and what the console was told as an error."""
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the DevTools protocol and return its result."""
        return self._loop.run_until_complete(asyncio.wait_for(self._call(method, parameters), _PATIENCE_S))

    async def _call(self, method: str, parameters: dict[str, Any]) -> Any:
        self._number += 1
        await self._socket.write_message(
            json.dumps({"id": self._number, "method": method, "params": parameters})
        )
        while True:
            text = await self._socket.read_message()
            assert text is not None, "the browser is gone"
            message = json.loads(text)
            if message.get("id") == self._number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self._note(message)

    def _note(self, event: dict[str, Any]) -> None:
        told = event.get("params", {})
        if event["method"] == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif event["method"] == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.errors.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")

    def show(self, width: int, height: int = 900, *, dark: bool = False, touch: bool = False) -> None:
        """Set the size of the window, and whether it is a dark one or a phone's."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=touch,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, address: str | Path) -> None:
        """Load a page, by its address or path."""
        url = address.resolve().as_uri() if isinstance(address, Path) else address
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)
        self.wait(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url)})")

    def evaluate(self, script: str) -> Any:
        """Return the JSON value of a JavaScript expression; promises are waited for."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script: str) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + _PATIENCE_S
        while not self.evaluate(script):
            assert time.monotonic() < end, f"never came true: {script}"
            time.sleep(0.02)

    def apply(self, function: str, *arguments: Any) -> Any:
        """Return what a JavaScript function makes of some values."""
        return self.evaluate(f"({function})({', '.join(map(json.dumps, arguments))})")

    def texts(self, selector: str) -> list[str]:
        """Return what is written in each element that is seen."""
        return list(self.apply(_TEXTS, selector))

    def place(self, selector: str) -> tuple[float, float]:
        """Return the middle of the first element, scrolled into sight, once there is one."""
        self.wait(f"document.querySelector({json.dumps(selector)}) !== null")
        x, y = self.apply(_PLACE, selector)
        return x, y

    def point(self, x: float, y: float) -> None:
        """Move the mouse."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        """Click the middle of the first element."""
        self.press_at(*self.place(selector))

    def press_at(self, x: float, y: float) -> None:
        """Press and release the mouse's button at a place."""
        self.point(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def choose(self, selector: str, value: str) -> None:
        """Choose an option of a select by its value."""
        assert self.apply(_CHOOSE, selector, value), f"{selector} has no option {value}"

    def press(self, key: str) -> None:
        """Press a key: a character, or a name such as ``Enter``."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        code = {"windowsVirtualKeyCode": _KEYS[key]} if key in _KEYS else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text, **code)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, **code)

    def scroll(self, x: float, y: float, down: float) -> None:
        """Turn the wheel at a place."""
        self.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=down)

    def picture(self, path: Path | None = None, *, whole: bool = False) -> bytes:
        """Return a PNG of what is seen, or of the whole page; write it to `path`, too."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        data = base64.b64decode(found["data"])
        if path is not None:
            path.write_bytes(data)
        return data


@contextlib.contextmanager
def open_browser() -> Iterator[Page]:
    """Start a browser and give an empty page in it; end it afterwards."""
    from tornado.websocket import websocket_connect

    assert COMMAND is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")
        quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync")
        command = [COMMAND, *flags, *quiet, "--remote-debugging-port=0", f"--user-data-dir={home}"]
        process = subprocess.Popen(
            [*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        loop = asyncio.new_event_loop()
        try:
            port = _read_port(Path(home) / "DevToolsActivePort", process)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                target = next(one for one in json.load(answer) if one["type"] == "page")

            async def connect() -> Any:
                return await websocket_connect(target["webSocketDebuggerUrl"], max_message_size=1 << 28)

            async def close() -> None:
                socket.close()
                while await socket.read_message() is not None:
                    pass

            socket = loop.run_until_complete(connect())
            yield Page(socket, loop)
            loop.run_until_complete(asyncio.wait_for(close(), _PATIENCE_S))
        finally:
            process.terminate()
            process.wait()
            loop.close()


def _read_port(path: Path, process: subprocess.Popen[bytes]) -> int:
    """Return the port that the browser listens at, once it has written it."""
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            lines = path.read_text().split()
            if lines:
                return int(lines[0])
        time.sleep(0.05)
    raise RuntimeError("the browser did not start")
