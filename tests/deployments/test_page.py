"""The page at / in headless Chromium, on the running service."""

import asyncio
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from loadtest.local_service import free_port
from tests.service import Service

pytestmark = pytest.mark.service
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def test_it_takes_nothing_from_elsewhere(service: Service) -> None:
    page, script = (httpx.get(f"{service.url}/{name}", timeout=30) for name in ("", "page.js"))
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert script.headers["content-type"].startswith("text/javascript")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http://" not in page.text + script.text
    assert "https://" not in page.text + script.text


class Browser:
    """One tab, by Chromium's DevTools protocol."""

    def __init__(self, port: int) -> None:
        (tab,) = [one for one in httpx.get(f"http://127.0.0.1:{port}/json").json() if one["type"] == "page"]
        self._address = tab["webSocketDebuggerUrl"]

    def run(self, *commands: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """The results of some commands, one after the other."""
        return asyncio.run(self._run(commands))

    async def _run(self, commands: tuple[tuple[str, dict[str, Any]], ...]) -> list[dict[str, Any]]:
        results = []
        async with connect(self._address, max_size=None) as tab:
            for number, (method, params) in enumerate(commands):
                await tab.send(json.dumps({"id": number, "method": method, "params": params}))
                while (answer := json.loads(await tab.recv())).get("id") != number:
                    pass
                results.append(answer["result"])
        return results

    def value(self, script: str) -> Any:
        """Of a JavaScript expression; a promise's is waited for."""
        given = {"expression": script, "awaitPromise": True, "returnByValue": True, "userGesture": True}
        (result,) = self.run(("Runtime.evaluate", given))
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, script: str, seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while not self.value(script):
            assert time.monotonic() < end, self.value("document.body.innerText")
            time.sleep(0.1)


@pytest.fixture(scope="module")
def browser(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    port = free_port()
    profile = tmp_path_factory.mktemp("chromium")
    process = subprocess.Popen(
        [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--remote-debugging-port={port}",
         f"--user-data-dir={profile}", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
         "--autoplay-policy=no-user-gesture-required", "--window-size=820,1120",
         service.url],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < end
            time.sleep(0.1)
        tab = Browser(port)
        tab.wait_for("document.querySelectorAll('#voice option').length > 0")
        yield tab
    finally:
        process.terminate()
        process.wait(20)


def test_it_speaks_and_says_how_fast(browser: Browser) -> None:
    assert "dummy:tiny" in browser.value("document.getElementById('model').textContent")
    browser.value("document.getElementById('text').value = 'A short one.'")
    browser.value("document.getElementById('seed').value = '5'")
    browser.value("document.getElementById('form').dispatchEvent(new Event('input'))")
    assert '"seed":5' in browser.value("document.getElementById('curl').textContent")
    browser.value("document.getElementById('speak').click()")
    browser.wait_for("document.getElementById('status').textContent === 'Done.'")
    figures = "[...document.querySelectorAll('dd')].map((one) => [one.id, one.textContent])"
    told = browser.value(f"Object.fromEntries({figures})")
    assert told["first"].endswith(" ms")
    assert told["length"] == f"{round(len('A short one.') * 1.7) * 0.04:.2f} s"
    assert float(told["factor"]) > 0
    assert told["used"] == "5"
    assert browser.value("document.getElementById('save').disabled") is False


def test_stop_frees_the_place(browser: Browser, service: Service) -> None:
    browser.value("document.getElementById('text').value = 'A sentence to be spoken at length. '.repeat(40)")
    browser.value("document.getElementById('speak').click()")
    browser.wait_for("document.getElementById('first').textContent !== '–'")
    browser.value("document.getElementById('stop').click()")
    assert browser.value("document.getElementById('status').textContent") == "Stopped."
    service.wait_until_idle()


def test_a_voice_is_recorded_and_speaks(browser: Browser, service: Service) -> None:
    """Chromium's own microphone beeps."""
    told = "document.getElementById('told').textContent"
    browser.value("document.getElementById('record').click()")
    browser.wait_for(f"parseFloat({told}.replace('Recording, ', '')) > 3.5")
    browser.value("document.getElementById('record').click()")
    assert browser.value(told) == "Recorded. Give it a name and add it."
    browser.value("document.getElementById('name').value = 'Beeps'")
    browser.value("document.getElementById('consent').click()")
    browser.value("document.getElementById('upload').click()")
    browser.wait_for(f"{told} === 'Beeps is in the list of voices.'")
    chosen = browser.value("document.getElementById('voice').value")
    made = httpx.get(f"{service.url}/v1/voices/{chosen}", timeout=30).json()
    assert (made["name"], made["consent"]) == ("Beeps", True)
    browser.value("document.getElementById('text').value = 'As recorded.'")
    browser.value("document.getElementById('speak').click()")
    browser.wait_for("document.getElementById('status').textContent === 'Done.'")
    assert httpx.delete(f"{service.url}/v1/voices/{chosen}", timeout=30).status_code == 200
    browser.value("document.getElementById('voice').value = 'default'")


def test_what_goes_wrong_is_said(browser: Browser) -> None:
    browser.value("document.getElementById('text').value = '   '")
    browser.value("document.getElementById('speak').click()")
    browser.wait_for("document.getElementById('status').classList.contains('wrong')")
    assert "text" in browser.value("document.getElementById('status').textContent").lower()


def test_it_can_be_used_by_keyboard_and_by_ear(browser: Browser) -> None:
    """Every control has a name and is reached by Tab; what changes is announced; both themes have enough contrast."""
    nameless = "[...document.querySelectorAll('textarea, select, input')].filter((one) => !one.labels.length).length"
    assert browser.value(nameless) == 0
    tree = browser.run(("Accessibility.enable", {}), ("Accessibility.getFullAXTree", {}))[1]["nodes"]
    roles = ("button", "textbox", "combobox", "spinbutton")
    controls = [node for node in tree if node.get("role", {}).get("value") in roles]
    assert len(controls) > 8
    assert all(node["name"]["value"] for node in controls)
    assert browser.value("document.querySelectorAll('[aria-live]').length") == 2
    for theme in ("light", "dark"):
        colours = dict(zip(COLOURS, themed(browser, theme), strict=True))
        assert (colours["--paper"] < "#8") == (theme == "dark")
        for name in ("--ink", "--soft", "--mark"):
            assert contrast(colours[name], colours["--paper"]) > 4.5, (theme, name)


COLOURS = ("--ink", "--soft", "--mark", "--paper")


def themed(browser: Browser, theme: str) -> list[str]:
    """The colours of a theme, which holds for one connection."""
    style = "getComputedStyle(document.documentElement)"
    script = f"{json.dumps(COLOURS)}.map((name) => {style}.getPropertyValue(name).trim())"
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    given = {"expression": script, "returnByValue": True}
    _, result = browser.run(("Emulation.setEmulatedMedia", media), ("Runtime.evaluate", given))
    return result["result"]["value"]


def contrast(*colours: str) -> float:
    """Of two colours #rrggbb, as WCAG 2 defines it."""
    bright = []
    for colour in colours:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        bright.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(bright) + 0.05) / (min(bright) + 0.05)
