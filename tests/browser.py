"""A real JupyterLab and a real browser, for the tests and the program that look at notebooks as a reader does."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 240  # seconds that are only spent on a machine busy with other things


@contextmanager
def lab(
    folder: Path, root: str = "work", settings: Mapping[str, dict] | None = None, **environment: str
) -> Iterator[str]:
    """The address of a JupyterLab that knows no settings but its own.

    Args:
        folder: an empty one but for `root`; it takes the server's log, and settings, kernels and history of its own.
        root: what the server shows, below `folder`.
        settings: of JupyterLab, by plugin: `{"@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"}}`.
        environment: more variables for the server and its kernels.

    Raises:
        RuntimeError: the server ends or says nothing; with the end of its log.
    """
    for plugin, values in (settings or {}).items():
        file = folder / "settings" / f"{plugin.replace(':', '/')}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-m", "jupyterlab", *_options(folder / root, port)]
        own = os.environ | _own_folders(folder) | environment
        server = subprocess.Popen(command, env=own, cwd=folder, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address, server, folder / "log")
        yield address
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:  # its kernel ends with it
            server.kill()
            server.wait()


def _own_folders(folder: Path) -> dict[str, str]:
    own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    own |= {"IPYTHONDIR": str(folder / "ipython"), "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings")}
    return own | {"JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces")}


def _options(root: Path, port: int) -> list[str]:
    options = ["--no-browser", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    options += ["--IdentityProvider.token=", f"--ServerApp.root_dir={root}"]
    options += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--allow-root")
    return options


def _wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        if server.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"JupyterLab does not answer: {log.read_text()[-2000:]}")
        try:
            urllib.request.urlopen(f"{address}/api/status", timeout=5).close()
            return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.1)


@contextmanager
def page(width: int = 1200, height: int = 1600) -> Iterator:
    """A page of Chromium, WebGL included; `page.errors` collects what goes wrong in it, with the path it came from."""
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(1000 * PATIENCE)
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("console", lambda message: message.type == "error" and page.errors.append(_told(message)))
        yield page
        browser.close()


def _told(message) -> str:
    path = urlsplit(message.location.get("url", "")).path
    return f"{message.text} ({path})" if path else message.text


def open_notebook(page, address: str, path: str) -> None:
    """Opens a notebook in JupyterLab and waits for its kernel: what is run before the kernel is there is lost."""
    page.goto(f"{address}/lab/tree/{path}?reset")
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    page.get_by_text("| Idle").first.wait_for()
