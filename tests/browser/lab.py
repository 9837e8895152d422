"""JupyterLab as a reader has it: a server on a free port, and a notebook driven by its page.

The page does what a hand does (menus, sliders, buttons); the kernel behind it is asked apart, over
its own connection, what became of that. JupyterLab's own state (`window.jupyterapp`) only says when
a cell has finished.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client import BlockingKernelClient

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "out" / "browser"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGUMENTS = [
    "--no-sandbox",  # containers have no user namespaces
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# No questions, no news, and every cell in the page however far down it is.
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
    "docmanager-extension/plugin": {"autosave": False},
}
CELLS = "window.jupyterapp.shell.currentWidget.content.widgets.map((cell) => cell.model)"


def find_chromium() -> str | None:
    """The path of a Chromium or Chrome: $CHROMIUM, else the first one on the PATH."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


class Lab:
    """A JupyterLab of its own: free port, no token, empty settings, and a folder of notebooks."""

    def __init__(self, home: Path) -> None:
        self.root, self.runtime = home / "notebooks", home / "runtime"
        shutil.copytree(ROOT / "notebooks", self.root)
        for name, values in SETTINGS.items():
            file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(values), encoding="utf-8")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        own = {
            "JUPYTER_CONFIG_DIR": home / "config",
            "JUPYTER_DATA_DIR": home / "data",
            "JUPYTER_RUNTIME_DIR": self.runtime,
            "JUPYTERLAB_SETTINGS_DIR": home / "settings",
            "JUPYTERLAB_WORKSPACES_DIR": home / "workspaces",
            "IPYTHONDIR": home / "ipython",
        }
        options = [
            "--no-browser", "--allow-root", "--expose-app-in-browser", f"--port={port}",
            "--ServerApp.port_retries=0", "--ip=127.0.0.1", "--IdentityProvider.token=",
            f"--ServerApp.root_dir={self.root}",
        ]  # fmt: skip
        self._log = (home / "lab.log").open("w+", encoding="utf-8")
        self._server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env={**os.environ, **{name: str(folder) for name, folder in own.items()}},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _wait(self, seconds: float = 120) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and self._server.poll() is None:
            try:
                return self._api("status")
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        self._log.seek(0)
        raise RuntimeError(f"JupyterLab did not start. It said:\n{self._log.read()}")

    def _api(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/{path}", timeout=10) as reply:
            return json.load(reply)

    def write(self, name: str, *cells: str) -> str:
        """A notebook of these code cells, in the lab's folder."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(notebook, self.root / name)
        return name

    def open(self, browser: Any, name: str) -> Notebook:
        """The notebook in a new page, with its kernel running."""
        return Notebook(self, browser, name)

    def connection(self, name: str) -> Path:
        """The connection file of the kernel behind a notebook."""
        (kernel,) = [s["kernel"]["id"] for s in self._api("sessions") if s["path"] == name]
        return self.runtime / f"kernel-{kernel}.json"

    def close(self) -> None:
        self._server.terminate()
        try:
            self._server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._log.close()


class Notebook:
    """One notebook in JupyterLab: `page` is Playwright's page, `value()` asks the kernel."""

    def __init__(self, lab: Lab, browser: Any, name: str) -> None:
        self.name = name
        self.page = browser.new_page(viewport={"width": 1280, "height": 1000})
        self.page.set_default_timeout(30_000)
        self.page.goto(f"{lab.url}/lab/tree/{name}?reset")
        self.page.locator(".jp-Notebook").wait_for(timeout=60_000)
        self.page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status"
            " === 'idle'",
            timeout=60_000,
        )
        self._kernel = BlockingKernelClient(connection_file=str(lab.connection(name)))
        self._kernel.load_connection_file()
        self._kernel.start_channels()

    # ----------------------------------------------------------------------------------- by hand
    def run_all(self, seconds: float = 120) -> None:
        """Run > Run All Cells, and wait for the last. AssertionError for an error in a cell."""
        self.page.locator("li.lm-MenuBar-item >> text=/^Run$/").click()
        self.page.locator("li.lm-Menu-item >> text=/^Run All Cells$/").click()
        self._finished(seconds)

    def run_cell(self, cell: int | str, seconds: float = 120) -> None:
        """Choose the cell by a click left of it, press Shift+Enter, and wait for it."""
        self.cell(cell).locator(".jp-InputPrompt").click()
        self.page.keyboard.press("Shift+Enter")
        self._finished(seconds)

    def _finished(self, seconds: float) -> None:
        self.page.wait_for_function(
            f"() => {CELLS}.every((cell) => !['running', 'scheduled'].includes("
            "cell.executionState)) && !document.querySelector('.jp-mod-pendingPrompt')"
            " && ![...document.querySelectorAll('.jp-InputPrompt')].some("
            "(prompt) => prompt.textContent.includes('*'))",
            timeout=1000 * seconds,
        )
        errors = self.errors()
        assert not errors, "\n".join(errors)

    def cell(self, which: int | str) -> Any:
        """The cell with its outputs: by its id, or counted from 0 over cells of every kind."""
        index = self.ids().index(which) if isinstance(which, str) else which
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def ids(self, kind: str = "") -> list[str]:
        """The ids of all cells, or of those of one kind ("code")."""
        kept = f".filter((cell) => cell.type === '{kind}')" if kind else ""
        return self.page.evaluate(f"() => {CELLS}{kept}.map((cell) => cell.id)")

    def errors(self) -> list[str]:
        """The tracebacks in the notebook, but for cells that are there to raise one."""
        found = self.page.evaluate(
            f"() => {CELLS}.filter((cell) => cell.type === 'code'"
            " && !(cell.getMetadata('tags') ?? []).includes('raises-exception'))"
            ".flatMap((cell) => cell.outputs.toJSON())"
            ".filter((output) => output.output_type === 'error')"
            ".map((output) => output.traceback.join('\\n'))"
        )
        return [re.sub(r"\x1b\[[0-9;]*m", "", text) for text in found]

    def screenshot(self, name: str, of: Any) -> Path:
        """The part `of` the page as out/browser/<name>.png, all of it however tall it is."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        path, before = PICTURES / f"{name}.png", self.page.viewport_size
        height = 2 * before["height"] + int(of.bounding_box()["height"])
        self.page.set_viewport_size({**before, "height": height})
        self.page.mouse.move(0, 0)
        self.page.wait_for_timeout(500)  # the notebook is laid out anew
        of.screenshot(path=path)
        self.page.set_viewport_size(before)
        self.page.wait_for_timeout(500)
        return path

    # -------------------------------------------------------------------------- behind the page
    def run(self, code: str, seconds: float = 60) -> None:
        """Run statements in the kernel, in no cell. RuntimeError for what they raise."""
        self._ask(code, {}, seconds)

    def value(self, expression: str, seconds: float = 60) -> Any:
        """What the expression is in the kernel, carried over as JSON."""
        asked = {"value": f"__import__('json').dumps({expression})"}
        answer = self._ask("", asked, seconds)["user_expressions"]["value"]
        if answer["status"] != "ok":
            raise RuntimeError(f"{expression}: {answer['ename']}: {answer['evalue']}")
        return json.loads(ast.literal_eval(answer["data"]["text/plain"]))

    def _ask(self, code: str, expressions: dict[str, str], seconds: float) -> dict:
        request = self._kernel.execute(
            code, silent=not code, store_history=False, user_expressions=expressions
        )
        while True:
            reply = self._kernel.get_shell_msg(timeout=seconds)
            if reply["parent_header"].get("msg_id") == request:
                break
        content = reply["content"]
        if content["status"] != "ok":
            raise RuntimeError(f"{code}: {content['ename']}: {content['evalue']}")
        return content

    def wait_until(self, expression: str, seconds: float = 60) -> None:
        """Ask the kernel until it says yes. AssertionError when it does not in time.

        An expression that raises is a no, too: what it asks about may still be on its way.
        """
        until = time.monotonic() + seconds
        while True:
            try:
                answer: Any = self.value(f"bool({expression})")
            except RuntimeError as error:
                answer = error
            if answer is True:
                return
            assert time.monotonic() < until, f"{answer!r} for {seconds} s: {expression}"
            self.page.wait_for_timeout(100)

    def close(self) -> None:
        self._kernel.stop_channels()
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        self.page.close()
