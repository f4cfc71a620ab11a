"""Pages in a headless Chromium, where one is installed."""

from __future__ import annotations

import contextlib
import html
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")


def _browser() -> str | None:
    """One that starts: in some containers an installed one cannot."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if (path := shutil.which(name)) is not None:
            with tempfile.TemporaryDirectory() as folder, contextlib.suppress(subprocess.TimeoutExpired):
                command = [path, *FLAGS, f"--user-data-dir={folder}/profile", "--dump-dom", "about:blank"]
                if "<html>" in subprocess.run(command, capture_output=True, text=True, timeout=60).stdout:
                    return path
    return None


BROWSER = _browser()
needs_browser = pytest.mark.skipif(
    BROWSER is None,
    reason="what a page's script does is seen in Chromium, which is no Python package: apt-get install chromium",
)


def in_browser(page: Path, script: str, *flags: str) -> Any:
    """What the script leaves in `found`, run in the page."""
    assert BROWSER is not None
    body = f"<script>const found = {{}};\n{script}\nconst out = document.createElement('pre'); out.id = 'found';"
    body += "out.textContent = JSON.stringify(found); document.body.append(out);</script></body>"
    tested = page.with_name("tested.html")
    tested.write_text(page.read_text().replace("</body>", body))
    command = [BROWSER, *FLAGS, f"--user-data-dir={page.parent / 'profile'}", *flags, "--dump-dom", tested.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    match = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert match is not None, "the script stopped with an error"
    return json.loads(html.unescape(match[1]))
