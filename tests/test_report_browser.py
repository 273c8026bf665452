"""The report in a real browser, headless and offline."""

import json
import re
import shutil
import subprocess
from html import unescape

import numpy as np
import pytest

from weightscale_fast.analysis import cluster_layers
from weightscale_fast.analysis.groups import cluster_groups, group_layers
from weightscale_fast.report.write import write_report

from .histories import make_history, noisy

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no chromium or chrome is installed", allow_module_level=True)

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # offline
    "--enable-logging=stderr",
    "--virtual-time-budget=20000",
]

# Added to a copy of the page: what a person would look at and click, left in the page as text.
PROBE = """
<script>
const sort = (column, times) => {
  for (let i = 0; i < times; i++) document.querySelectorAll(".layers button")[column].click();
  return [...document.querySelectorAll(".layers tbody tr")].map(row => row.cells[column].textContent);
};
addEventListener("load", async () => {
  await Promise.all([...document.images].map(image => image.decode().catch(() => {})));
  const seen = {
    images: [...document.images].map(image => [image.naturalWidth, image.getBoundingClientRect().width]),
    captions: document.querySelectorAll("figcaption").length,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    risingNames: sort(1, 1), fallingNames: sort(1, 1), weights: sort(3, 1), clusters: sort(4, 2), rwc: sort(5, 1),
    sorted: document.querySelector("[aria-sort]").textContent,
  };
  const text = document.createElement("pre");
  text.id = "seen";
  text.textContent = JSON.stringify(seen);
  document.body.append(text);
});
</script>
"""


@pytest.fixture(scope="module")
def history():
    names = ["stem.weight", *(f"layer{1 + i // 5}.{i % 5}.conv.weight" for i in range(10, -1, -1))]
    return make_history(noisy(400, 12), names=names, numel=np.arange(1, 13) * 7919 % 5003)


@pytest.fixture(scope="module")
def opened(history, tmp_path_factory):
    """What the probe saw, and what the browser logged."""
    folder = tmp_path_factory.mktemp("report")
    clusters = cluster_layers(history, k=3, n_init=1)
    groups = cluster_groups(history, group_layers(history.names, history.kinds, "kind"), k=2, n_init=1)
    report = write_report(history, clusters, folder, groups=groups)
    probed = folder / "probed.html"
    probed.write_text(report.read_text("utf-8").replace("</body>", f"{PROBE}</body>"), "utf-8")
    profile = f"--user-data-dir={tmp_path_factory.mktemp('profile')}"
    command = [CHROMIUM, *FLAGS, profile, "--dump-dom", probed.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    seen = re.search('<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert seen is not None, done.stderr[-2000:]
    return json.loads(unescape(seen.group(1))), done.stderr


def test_opens_without_a_word_on_the_console(opened):
    assert [line for line in opened[1].splitlines() if "CONSOLE" in line] == []


def test_every_figure_is_there(opened):
    seen = opened[0]
    assert len(seen["images"]) == seen["captions"] == 10
    assert all(natural > 0 and shown > 300 for natural, shown in seen["images"])


def test_nothing_is_wider_than_the_window(opened):
    assert opened[0]["overflow"] == 0


def test_a_click_on_a_header_sorts(opened, history):
    seen = opened[0]
    assert seen["risingNames"] == sorted(history.names)
    assert seen["fallingNames"] == sorted(history.names, reverse=True)
    assert [int(text.replace(",", "")) for text in seen["weights"]] == sorted(history.numel)
    assert seen["clusters"] == sorted(seen["clusters"], reverse=True)
    assert [float(text) for text in seen["rwc"]] == sorted(float(text) for text in seen["rwc"])
    assert seen["sorted"] == "Median RWC"


def test_the_probe_would_notice_an_error(tmp_path):
    (tmp_path / "page.html").write_text("<script>undefined.x</script>")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path}", "--dump-dom", (tmp_path / "page.html").as_uri()]
    assert "CONSOLE" in subprocess.run(command, capture_output=True, text=True, timeout=120).stderr
