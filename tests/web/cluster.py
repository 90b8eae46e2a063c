"""The dashboard of a node of a cluster, in headless Chromium: nodes, links, a move by a click, and letting placement choose again.

    cluster.py BASE WORLD TO SHOTS

WORLD runs on the node of BASE; TO is another node. Screenshots go to SHOTS.
"""

import json
import pathlib
import shutil
import sys
import urllib.request

from playwright.sync_api import expect, sync_playwright

BASE, WORLD, TO, SHOTS = sys.argv[1].rstrip("/"), sys.argv[2], sys.argv[3], pathlib.Path(sys.argv[4])
BROWSER = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
assert BROWSER, "no browser: tests/web/setup.sh installs one"


def api(path):
    with urllib.request.urlopen(BASE + path, timeout=20) as answer:
        return json.load(answer)


def row(name):
    return next(world for world in api("/v1/cluster")["worlds"] if world["name"] == name)


with sync_playwright() as playwright:
    # The sandbox needs rights that containers do not give; the page is our own.
    browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    errors = []
    # A world that is on another node is no mistake of the page: it says where. Nor is one that leaves in this moment (409).
    passing = ("421", "409")
    told = lambda message: message.type in ("error", "warning") and not any(status in message.text for status in passing)
    page.on("console", lambda message: errors.append(message.text) if told(message) else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(BASE + "/")
    expect(page.locator("#link.live")).to_be_visible(timeout=15_000)
    cluster = api("/v1/cluster")
    expect(page.locator("article.node")).to_have_count(len(cluster["nodes"]))
    page.screenshot(path=SHOTS / "cluster-overview.png", full_page=True)
    # Moved by a click: the API says so, the page shows it.
    page.goto(f"{BASE}/#/world/{WORLD}")
    page.click("#move")
    page.select_option("dialog select", TO)
    page.click("dialog button[value=yes]")
    expect(page.locator(".toast", has_text=f"moves to {TO}")).to_be_visible(timeout=20_000)
    page.goto(f"{BASE}/#/cluster")
    expect(page.locator("nav [data-page=cluster]")).to_be_visible()
    links = page.locator("section[aria-label=Links] tbody tr")
    expect(links).to_have_count(len(cluster["nodes"]) - 1)
    expect(links.filter(has_text="up")).to_have_count(len(cluster["nodes"]) - 1)
    pinned = page.locator("section[aria-label='Pinned worlds'] tbody tr")
    expect(pinned).to_have_count(1, timeout=20_000)
    expect(pinned.first).to_contain_text(WORLD)
    expect(pinned.first.locator("td").nth(2)).to_have_text(TO, timeout=60_000)
    assert row(WORLD)["pinned"] and row(WORLD)["target"] == TO, row(WORLD)
    page.click("#ask-plan")
    expect(page.locator("#plan")).to_contain_text("Nothing: every world is where it should be.")
    page.screenshot(path=SHOTS / "cluster-page.png", full_page=True)
    page.get_by_label(f"unpin {WORLD}", exact=True).click()
    expect(pinned).to_have_count(0, timeout=20_000)
    assert not row(WORLD)["pinned"], row(WORLD)
    # On a phone nothing is wider than the screen.
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(500)
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0, f"{wide} pixels too wide"
    page.screenshot(path=SHOTS / "cluster-phone.png", full_page=True)
    assert not errors, errors
    browser.close()
print(f"screenshots are in {SHOTS}")
