"""Open a page in headless Chromium and look for what a person would see at once: nothing, broken pictures, errors."""

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--hide-scrollbars")  # fmt: skip
HOOKS = """<script>
const faults = [];
const told = console.error;
console.error = (...words) => { faults.push("console: " + words.join(" ")); told(...words); };
addEventListener("unhandledrejection", event => faults.push("promise: " + event.reason));
addEventListener("error", event => {
  const source = event.target.currentSrc || event.target.src || event.target.href;
  faults.push(source ? "could not load " + source.slice(-80) : "script: " + event.message);
}, true);
addEventListener("load", () => setTimeout(() => {
  for (const image of document.images)
    if (image.naturalWidth === 0) faults.push("broken picture: " + (image.alt || image.src.slice(-80)));
  const words = document.body.innerText.trim().length;
  if (words + document.images.length === 0) faults.push("the page is empty");
  const wide = document.documentElement.scrollWidth, room = document.documentElement.clientWidth;
  if (wide > room) faults.push("the page is " + wide + " pixels wide, the window " + room);
  const report = document.createElement("pre");
  report.id = "faults-found";
  report.textContent = JSON.stringify({faults: faults, width: innerWidth});
  parent.document.body.append(report);
}, 100));
</script>"""


def chromium() -> str:
    """The browser's program; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium here; on Debian: apt-get install chromium")
    return found


def run(page: Path, *flags: str) -> str:
    """Run Chromium on a page with a profile of its own and return what it prints."""
    with TemporaryDirectory() as profile:
        command = [chromium(), *FLAGS, f"--user-data-dir={profile}", *flags, page.resolve().as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def check_page(path: Path, width: int = 1280) -> None:
    """Fail with all faults of a page: it is empty, wider than the window, shows a broken picture, or logs an error."""
    page = path.read_text(encoding="utf-8")
    base = f'<base href="{path.resolve().parent.as_uri()}/">'
    head = re.search(r"<head[^>]*>", page)
    place = head.end() if head else 0
    with TemporaryDirectory() as folder:
        frame = Path(folder, "frame.html")
        hooked = escape(page[:place] + HOOKS + base + page[place:])
        # A frame, as a window of Chromium is never narrower than 500 pixels.
        frame.write_text(
            f'<body><iframe style="border:0;width:{width}px;height:900px" srcdoc="{hooked}"></iframe></body>'
        )
        dom = run(frame, "--virtual-time-budget=5000", "--dump-dom")
    report = re.search(r'<pre id="faults-found">(.*?)</pre>', dom, re.DOTALL)
    assert report, f"{path}: the page never finished loading"
    found = json.loads(unescape(report[1]))
    assert found["width"] == width, f"the window is {found['width']} pixels wide, not {width}"
    assert not found["faults"], f"{path}: " + "; ".join(found["faults"])


def screenshot(path: Path, picture: Path, width: int = 1280, height: int = 900) -> None:
    """Save what a window of that size shows as PNG."""
    run(path, f"--window-size={width},{height}", f"--screenshot={picture.resolve()}")
