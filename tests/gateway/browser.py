"""The browser client as players use it, in headless Chromium: walk in, walk with keys and with a finger, hear, read what scripts show.

    browser.py BASE SHOTS [restart]

Screenshots go to SHOTS: desktop and phone, light and dark. With "restart", who runs this stops and starts the node when it is told to.
"""

import pathlib
import re
import shutil
import sys
import time

from playwright.sync_api import expect, sync_playwright

BASE, SHOTS = sys.argv[1].rstrip("/"), pathlib.Path(sys.argv[2])
SHOTS.mkdir(parents=True, exist_ok=True)
BROWSER = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
assert BROWSER, "no browser: tests/web/setup.sh installs one"
PATIENCE = 30_000


class Tab:
    """A player's page whose console is watched."""

    def __init__(self, browser, name, **options):
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        self.page = self.context.new_page()
        self.errors = []
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.errors.append(f"asks {request.url}") if not request.url.startswith(BASE) else None)
        self.page.goto(BASE + "/")
        expect(self.page.locator("#world-name")).to_have_value("town")
        self.page.fill("#name", name)
        self.page.click("button.primary")
        expect(self.page.locator("body")).to_have_attribute("data-state", "playing", timeout=PATIENCE)
        expect(self.page.locator("#where")).not_to_be_empty(timeout=PATIENCE)

    def where(self):
        """Metres east and south."""
        east, south = re.fullmatch(r"(-?[\d.]+) east, (-?[\d.]+) south", self.page.inner_text("#where")).groups()
        return float(east), float(south)

    def until(self, what, is_so):
        """Look until it is so. From outside: the page's policy lets nobody evaluate text in it."""
        deadline = time.monotonic() + PATIENCE / 1000
        while not is_so():
            assert time.monotonic() < deadline, f"waited for {what} in vain, at {self.where()}"
            self.page.wait_for_timeout(30)

    def until_past(self, axis, metres):
        """Until the player is past this place east (0) or south (1)."""
        further = metres > self.where()[axis]
        self.until(f"{metres} on axis {axis}", lambda: (self.where()[axis] > metres) == further)

    def until_it_stands(self):
        seen = []
        self.until("it to stand", lambda: seen.append(self.where()) or seen[-12:] == 12 * seen[-1:])

    def sounds(self):
        return int(self.page.get_attribute("body", "data-sounds"))

    def close(self):
        assert not self.errors, self.errors
        self.context.close()


def walks_hears_and_reads(browser):
    ada = Tab(browser, "Ada")
    page = ada.page
    expect(page.locator("[data-element=greeting]")).to_contain_text("Welcome, Ada!", timeout=PATIENCE)
    expect(page.locator("[data-element=players]")).to_contain_text("Ada")
    assert int(page.get_attribute("body", "data-entities")) >= 4
    east, south = ada.where()
    page.keyboard.down("ArrowRight")
    ada.until_past(0, east + 3)
    page.keyboard.up("ArrowRight")
    assert ada.sounds() >= 2, f"{ada.sounds()} sounds"
    assert abs(ada.where()[1] - south) < 0.5, "east is not south"
    page.keyboard.down("KeyS")
    ada.until_past(1, south + 2)
    page.keyboard.up("KeyS")
    # It stands when no key is down.
    ada.until_it_stands()
    before = ada.sounds()
    page.keyboard.press("Space")
    ada.until("a wave that is heard", lambda: ada.sounds() > before)
    # What a script shows goes when the script says so.
    expect(page.locator("[data-element=greeting]")).to_have_count(0, timeout=PATIENCE)
    bob = Tab(browser, "<b>Bob</b>")
    # A name is text, whatever is in it.
    expect(page.locator("[data-element=players]")).to_contain_text("<b>Bob</b>", timeout=PATIENCE)
    page.screenshot(path=SHOTS / "town-light.png")
    bob.page.click("#mute")
    expect(bob.page.locator("#mute")).to_have_text("Sound off")
    bob.page.click("#leave")
    expect(bob.page.locator("#door")).to_be_visible()
    bob.close()
    expect(page.locator("[data-element=players]")).not_to_contain_text("Bob", timeout=PATIENCE)
    ada.close()


def comes_back_when_the_node_does(browser):
    """The node is stopped and started again by who runs this: said by a line, done when a line comes."""
    ada = Tab(browser, "Ada")
    page = ada.page
    east, _ = ada.where()

    def restarted(how):
        print(how, flush=True)
        # A node that goes says so, one that is killed does not: the page finds out.
        expect(page.locator("body")).to_have_attribute("data-state", re.compile("lost|connecting"), timeout=PATIENCE)
        expect(page.locator("#link")).to_contain_text(re.compile("connection lost, again in|connecting"))
        print("lost", flush=True)
        assert sys.stdin.readline() == "on\n"
        expect(page.locator("body")).to_have_attribute("data-state", "playing", timeout=PATIENCE)
        expect(page.locator("#where")).not_to_be_empty(timeout=PATIENCE)

    for how in ["stop", "kill"]:
        restarted(how)
        # It walks on, from where the script has put it.
        begin = ada.where()[0]
        page.keyboard.down("ArrowRight")
        ada.until_past(0, begin + 2)
        page.keyboard.up("ArrowRight")
        expect(page.locator("[data-element=players]")).to_contain_text("Ada", timeout=PATIENCE)
    # What the browser itself says of a connection that is refused is no mistake of the page.
    ada.errors = [error for error in ada.errors if "WebSocket connection to" not in error and "ERR_CONNECTION" not in error]
    ada.close()


def a_finger_walks_too(browser):
    tab = Tab(browser, "Finn", viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, color_scheme="dark", device_scale_factor=2)
    west, _ = tab.where()
    tab.page.mouse.move(195, 500)
    tab.page.mouse.down()
    tab.page.mouse.move(115, 500, steps=4)
    tab.until_past(0, west - 2)
    tab.page.screenshot(path=SHOTS / "phone-dark.png")
    tab.page.mouse.up()
    tab.close()


with sync_playwright() as playwright:
    # Without its sandbox: as root, and in containers, it needs rights that these do not give; the page is our own.
    browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"])
    steps = [comes_back_when_the_node_does] if sys.argv[3:] == ["restart"] else [walks_hears_and_reads, a_finger_walks_too]
    for step in steps:
        step(browser)
    browser.close()
print(f"screenshots are in {SHOTS}")
