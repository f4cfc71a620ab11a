"""Pages in a headless Chromium, where one is installed."""

from __future__ import annotations

import contextlib
import html
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
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


def in_frames(frames: Sequence[tuple[Path, int]], script: str, *flags: str) -> list[Any]:
    """What the script leaves in `found` in each page at each width in pixels, all in one start of the browser.

    A window of Chromium cannot be narrower than 500 pixels; a frame, whose width a page takes for its screen's, can.
    """
    assert BROWSER is not None
    host = frames[0][0].with_name("frames.html")
    places = []
    for k, (page, width) in enumerate(frames):
        body = f"<script>addEventListener('load', () => {{ const found = {{}};\n{script}\n"
        body += f"parent.postMessage([{k}, found], '*'); }});</script></body>"
        tested = page.with_name(f"framed-{k}.html")
        tested.write_text(page.read_text().replace("</body>", body))
        places.append(f'<iframe src="{tested.as_uri()}" style="width: {width}px; height: 900px; border: 0"></iframe>')
    host.write_text(
        '<!doctype html><meta name="color-scheme" content="light dark"><pre id="found"></pre><script>const all = {};'
        "addEventListener('message', ({ data }) => { all[data[0]] = data[1];"
        "document.getElementById('found').textContent = JSON.stringify(all); });</script>" + "\n".join(places)
    )
    command = [BROWSER, *FLAGS, f"--user-data-dir={host.parent / 'profile'}", "--virtual-time-budget=20000", *flags]
    dom = subprocess.run([*command, "--dump-dom", host.as_uri()], capture_output=True, text=True, timeout=120).stdout
    match = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    all_found = json.loads(html.unescape(match[1])) if match and match[1] else {}
    assert len(all_found) == len(frames), f"only {sorted(all_found)} of {len(frames)} pages answered"
    return [all_found[str(k)] for k in range(len(frames))]


def printed(page: Path) -> int:
    """Pages of the PDF that the browser prints."""
    assert BROWSER is not None
    out = page.with_suffix(".pdf")
    command = [BROWSER, *FLAGS, f"--user-data-dir={page.parent / 'profile'}", f"--print-to-pdf={out}", page.as_uri()]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    return len(re.findall(rb"/Type\s*/Page\b", out.read_bytes()))
