"""browser: Chromium for a test: opened, clicked in, looked at."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from live import until
from pictures import chromium


class Browser:
    """Chromium, spoken to over a pair of pipes (the DevTools protocol)."""

    def __init__(self, command: list[str]) -> None:
        theirs, self._out = os.pipe()
        self._in, answers = os.pipe()

        def placed() -> None:  # the pipes are to be 3 and 4, whatever they are now
            os.dup2(os.dup(theirs), 30), os.dup2(os.dup(answers), 31)
            os.dup2(30, 3), os.dup2(31, 4)

        self.process = subprocess.Popen(
            [*command, "--remote-debugging-pipe"],
            stderr=subprocess.DEVNULL,
            preexec_fn=placed,  # noqa: PLW1509 - there is no other thread here
            close_fds=False,
        )
        os.close(theirs)
        os.close(answers)
        self._number, self._rest, self.said = 0, b"", list[str]()
        self._session: dict[str, str] = {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.asked: list[str] = []

    def call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            found = self._message()
            if found.get("id") == self._number:
                assert "error" not in found, found
                return found["result"]

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._in, 1 << 16)
            assert data, "the browser ended"
            self._rest += data
        text, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(text)
        method, about = found.get("method"), found.get("params", {})
        if method in ("Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening"):
            self.said.append(json.dumps(about))
        if method == "Network.requestWillBeSent":
            self.asked.append(about["request"]["url"])
        return found

    def run(self, script: str) -> Any:
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script: str) -> Any:
        return until(lambda: self.run(script), script)

    def picture(self, to: Path) -> None:
        to.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    program = chromium()
    if program is None:
        pytest.skip("chromium is not installed")
    words = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-extensions"
    browser = Browser([program, *words.split(), "--hide-scrollbars", f"--user-data-dir={folder}/profile"])
    try:
        yield browser
    finally:
        browser.process.kill()
        browser.process.wait()
