"""The dashboard as people use it, in headless Chromium: pages load without errors, show what the API says, and their buttons act.

    browser.py BASE OPERATOR_TOKEN VIEWER_TOKEN SHOTS PID

Screenshots of every page go to SHOTS: desktop and phone, light and dark. PID is the node's: it is stopped for some seconds.
"""

import json
import os
import pathlib
import shutil
import signal
import sys
import urllib.request

from playwright.sync_api import expect, sync_playwright

BASE, OPERATOR, VIEWER = sys.argv[1].rstrip("/"), sys.argv[2], sys.argv[3]
SHOTS, NODE = pathlib.Path(sys.argv[4]), int(sys.argv[5])
SHOTS.mkdir(parents=True, exist_ok=True)
BROWSER = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
assert BROWSER, "no browser: tests/web/setup.sh installs one"


def api(path):
    request = urllib.request.Request(BASE + path, headers={"Authorization": f"Bearer {VIEWER}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


class Tab:
    """A signed-in page whose console is watched."""

    def __init__(self, browser, token=OPERATOR, **options):
        self.context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
        self.page = self.context.new_page()
        self.errors = []
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.errors.append(f"asks {request.url}") if not request.url.startswith(BASE) else None)
        self.page.goto(BASE + "/")
        # Without a token there is the one question; its 401 is the only error there may be.
        expect(self.page.locator("#token")).to_be_visible()
        self.errors = [error for error in self.errors if "401" not in error]
        self.page.fill("#token", token)
        self.page.keyboard.press("Enter")
        expect(self.page.locator("#link.live")).to_be_visible(timeout=15_000)

    def go(self, place):
        self.page.goto(f"{BASE}/#/{place}")

    def close(self):
        assert not self.errors, self.errors
        self.context.close()


def overview(browser):
    tab = Tab(browser)
    status = api("/v1/status")
    expect(tab.page.locator("h1")).to_have_text(status["name"])
    expect(tab.page.locator(".stat", has_text="Worlds").first.locator("dd")).to_have_text(str(len(status["worlds"])))
    rows = tab.page.locator("section[aria-label=Worlds] tbody tr")
    expect(rows).to_have_count(len(status["worlds"]))
    assert sorted(rows.locator("a").all_inner_texts()) == sorted(world["name"] for world in status["worlds"])
    first = status["worlds"][0]["name"]
    tab.page.keyboard.press("/")
    tab.page.keyboard.type(first)
    expect(rows).to_have_count(sum(first in world["name"] for world in status["worlds"]))
    tab.page.keyboard.press("Escape")
    tab.page.keyboard.press("?")
    expect(tab.page.locator("dialog")).to_contain_text("Keyboard")
    tab.page.keyboard.press("Escape")
    canvas = tab.page.locator("canvas.tiles").first
    canvas.focus()
    canvas.press("ArrowRight")
    canvas.press("Enter")
    expect(tab.page.locator("h1")).to_have_text(first)
    tab.close()


def world(browser, name):
    tab = Tab(browser)
    tab.go(f"world/{name}")
    page = tab.page
    rows = page.locator("section[aria-label=Scripts] tbody tr")
    scripts = api(f"/v1/worlds/{name}")["scripts"]
    expect(rows).to_have_count(len(scripts))
    expect(page.locator(".stat", has_text="Entities").locator("dd")).to_have_text(f"{api(f'/v1/worlds/{name}')['host']['entities']:,}")
    budget = api(f"/v1/worlds/{name}")["budget_us"]
    expect(page.locator(".stat", has_text="Budget used")).to_contain_text(f"of {budget / 1e3:.2f} ms" if budget < 1e4 else "ms")
    # Suspend, and back: the button acts, the API says so, the page shows it.
    script = scripts[0]["name"]
    state = lambda: next(s["state"]["state"] for s in api(f"/v1/worlds/{name}")["scripts"] if s["name"] == script)
    row = rows.filter(has=page.get_by_text(script, exact=True)).first
    page.get_by_label(f"suspend {script}", exact=True).click()
    expect(row).to_contain_text("suspended", timeout=10_000)
    assert state() == "suspended", state()
    page.get_by_label(f"resume {script}", exact=True).click()
    expect(row).not_to_contain_text("suspended", timeout=10_000)
    assert state() != "suspended"
    # What it may use and how much it does, and what happened to it.
    limits = page.locator("section[aria-label=Limits]")
    expect(limits.locator(".limit")).to_have_count(6, timeout=10_000)
    expect(limits.locator("[data-name=scripts_max]")).to_contain_text(f"{len(scripts)} of ")
    expect(limits.locator("#hits")).to_contain_text("none since the world started")
    page.click("#flight")
    record = page.locator("dialog ul[aria-label='Flight record'] > li")
    expect(record.filter(has_text="suspended by an operator")).to_have_count(1)
    assert record.count() == len(api(f"/v1/worlds/{name}/flight")["events"])
    page.keyboard.press("Escape")
    # Save under a name, and restore it.
    page.click("#checkpoint")
    page.fill("dialog input[name=name]", "noon")
    page.keyboard.press("Enter")
    expect(page.locator(".toast", has_text="is saved")).to_be_visible(timeout=20_000)
    assert any(row["name"] == "noon" for row in api(f"/v1/worlds/{name}/checkpoints"))
    page.click("#restore")
    noon = next(row["commit"] for row in api(f"/v1/worlds/{name}/checkpoints") if row["name"] == "noon")
    page.select_option("dialog select", str(noon))
    page.click("dialog button[value=yes]")
    expect(page.locator(".toast", has_text="goes on from")).to_be_visible(timeout=30_000)
    page.wait_for_timeout(1_500)
    assert page.evaluate("document.querySelector('#ticks').getContext('2d').getImageData(60, 10, 300, 150).data.some(Boolean)"), "empty chart"
    tab.close()


def versions(browser):
    tab = Tab(browser)
    tab.go("scripts")
    rows = tab.page.locator("section[aria-label='Artifacts and versions'] tbody tr")
    known = api("/v1/versions")
    expect(rows).to_have_count(len(known))
    active = next(version for version in known if version["active"])
    pin = f"pin {active['script']} version {active['version']}"
    tab.page.get_by_label(pin, exact=True).click()
    expect(tab.page.get_by_label("un" + pin, exact=True)).to_be_visible(timeout=10_000)
    assert next(v["pinned"] for v in api("/v1/versions") if (v["script"], v["version"]) == (active["script"], active["version"]))
    tab.close()


def events(browser):
    tab = Tab(browser)
    tab.go("events")
    expect(tab.page.locator("h1")).to_have_text("Events")
    shown = tab.page.locator("ul.log > li .text").all_inner_texts()
    said = {event["text"] for event in api("/v1/events?limit=4096")["events"]}
    assert all(text in said for text in shown), set(shown) - said
    tab.close()


def viewer_and_stranger(browser, name):
    tab = Tab(browser, token=VIEWER)
    tab.go(f"world/{name}")
    expect(tab.page.locator("#checkpoint")).to_be_disabled()
    expect(tab.page.locator("#who")).to_contain_text("viewer")
    tab.close()
    page = browser.new_page()
    page.goto(BASE + "/#/events")
    page.fill("#token", "aether_00_wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#login-error")).to_contain_text("not known")
    expect(page.locator("#bar")).to_be_hidden()
    page.close()


def silence(browser):
    tab = Tab(browser)
    # A node that answers nobody, as one on a machine that hangs.
    os.kill(NODE, signal.SIGSTOP)
    try:
        expect(tab.page.locator("#stale")).to_contain_text("What you see is old", timeout=30_000)
        expect(tab.page.locator("#link.late")).to_be_visible()
    finally:
        os.kill(NODE, signal.SIGCONT)
    expect(tab.page.locator("#stale")).to_be_hidden(timeout=40_000)
    tab.context.close()


def screenshots(browser, name):
    kinds = {
        "desktop": {"color_scheme": "light"},
        "desktop-dark": {"color_scheme": "dark"},
        "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}, "has_touch": True},
        "phone-dark": {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}, "has_touch": True},
    }
    for kind, options in kinds.items():
        tab = Tab(browser, **options)
        for place in ["", f"world/{name}", "scripts", "events"]:
            tab.go(place)
            tab.page.wait_for_timeout(1_500)
            tab.page.screenshot(path=SHOTS / f"{kind}-{place.split('/')[0] or 'overview'}.png", full_page=True)
            wide = tab.page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, f"{kind} {place}: {wide} pixels too wide"
        tab.close()


with sync_playwright() as playwright:
    # The sandbox needs rights that containers do not give; the page is our own.
    browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
    NAME = api("/v1/worlds?limit=1")["worlds"][0]["name"]
    for step in [overview, lambda b: world(b, NAME), versions, events, lambda b: viewer_and_stranger(b, NAME), silence, lambda b: screenshots(b, NAME)]:
        step(browser)
    browser.close()
print(f"screenshots are in {SHOTS}")
