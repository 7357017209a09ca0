"""The page in a browser: with JavaScript and without, from this host alone, without an error."""

import json
import os
import shutil
import subprocess
import tarfile
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
from serving.conftest import make_gallery, noise
from serving.process import served

from tipr_jax.gallery import calibrate
from tipr_jax.gallery.calibration import Curve
from tipr_jax.gallery.store import Store
from tipr_jax.inference.model import load

webdriver = pytest.importorskip("selenium.webdriver", reason="pip install selenium")

from selenium.common.exceptions import (  # noqa: E402
    NoSuchElementException,
    StaleElementReferenceException,
)
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

CHROME = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROME and DRIVER), reason="needs Chromium: apt install chromium chromium-driver"
)
HANGS = 60
AXE = "axe-core@4.14.1"
_STALE = (NoSuchElementException, StaleElementReferenceException)


class Browser:
    """A headless Chromium that notes every host it asked."""

    def __init__(self, address: str, *, scripts: bool, width: int = 1280):
        self.scripts = scripts
        options = webdriver.ChromeOptions()
        options.binary_location = CHROME
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        if not scripts:
            setting = {"profile.managed_default_content_settings.javascript": 2}
            options.add_experimental_option("prefs", setting)
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.address = address
        self.go("/")

    def go(self, path: str) -> None:
        self.driver.get(self.address + path)

    def all(self, selector: str) -> list:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def until(self, condition) -> None:
        WebDriverWait(self.driver, HANGS, ignored_exceptions=_STALE).until(lambda _: condition())

    def query(self) -> dict[str, list[str]]:
        """The fields of the address."""
        return urllib.parse.parse_qs(urllib.parse.urlsplit(self.driver.current_url).query)

    def status(self) -> str:
        return self.one("[role=status]").text

    def hosts(self) -> set[str]:
        asked = set()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                asked.add(urllib.parse.urlsplit(message["params"]["request"]["url"]).netloc)
        return asked

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture
def service(gallery, model_directory):
    with served(f"--gallery={gallery}", f"--model={model_directory}") as service:
        yield service


@pytest.fixture(scope="module")
def read_only(model, photos, model_directory, tmp_path_factory):
    """A service for tests that change nothing."""
    path = make_gallery(tmp_path_factory.mktemp("page") / "my.gallery", model, photos)
    curve = Curve(np.array([1.0]), np.array([0.05]), np.array([0.4]), auc=0.7)
    with Store.open(path) as store:
        calibrate.remember(store, model, {"cosine": curve}, "cuhk_pedes val", 400, 0.05)
    with served(f"--gallery={path}", f"--model={model_directory}") as service:
        yield service


@pytest.fixture(params=[True, False], ids=["JavaScript", "no JavaScript"])
def browser(service, request):
    browser = Browser(service.address, scripts=request.param)
    yield browser
    browser.driver.quit()


@pytest.fixture
def open_browser(read_only):
    """Opens a browser at the page of a service that the tests share."""
    opened = []

    def open_browser(scripts: bool = True, width: int = 1280) -> Browser:
        opened.append(Browser(read_only.address, scripts=scripts, width=width))
        return opened[-1]

    yield open_browser
    for browser in opened:
        browser.driver.quit()


def test_a_visit(browser, tmp_path):
    """Search, filter, the next page, back, a person, find again, upload, delete."""
    field = browser.one("#q")
    browser.until(lambda: browser.driver.switch_to.active_element == field)
    field.send_keys("a man in a red coat", Keys.ENTER)
    browser.until(lambda: browser.status().startswith("1 to 24 of 30"))
    assert browser.query() == {"q": ["a man in a red coat"]}
    assert "camera" not in browser.driver.current_url, "fields that say nothing are left out"
    assert len(browser.all(".grid li")) == 24

    browser.one("[rel=next]").click()
    browser.until(lambda: browser.status().startswith("25 to 30 of 30"))
    assert browser.query()["page"] == ["2"]
    browser.until(lambda: browser.driver.execute_script("return window.scrollY") == 0)
    browser.driver.back()
    browser.until(lambda: browser.status().startswith("1 to 24 of 30"))
    assert browser.one("#q").get_attribute("value") == "a man in a red coat"

    browser.one(".filters summary").click()
    browser.one("#camera").send_keys("gate", Keys.ENTER)
    browser.until(lambda: browser.status().startswith("1 to 3 of 3"))
    browser.driver.refresh()
    browser.until(lambda: browser.status().startswith("1 to 3 of 3"))
    assert browser.one("#camera").get_attribute("value") == "gate"

    browser.one(".grid li a").click()
    browser.until(
        lambda: [w.text for w in browser.all(".words tbody th")] == "a man in a red coat".split()
    )
    person = browser.one("h1").text.split()[1]
    assert int(browser.one(".frame").get_attribute("naturalWidth")) == 20
    browser.one("main .button").click()
    browser.until(lambda: browser.all(".like"))
    assert browser.query()["like"] == [person]
    assert browser.one(".grid li a").get_attribute("href").split("?")[0].endswith(f"/{person}")

    noise(500).save(tmp_path / "new.png")
    browser.one(".by-picture summary").click()
    browser.one("#file").send_keys(str(tmp_path / "new.png"))
    browser.one(".search button").click()
    browser.until(lambda: browser.all(".like img[src^='/pictures/']"))
    assert set(browser.query()) == {"picture", "camera"} and browser.status().startswith("1 to 3")
    browser.one("#q").send_keys("in red", Keys.ENTER)
    browser.until(lambda: browser.query().get("q") == ["in red"])
    assert "picture" in browser.query() and browser.all(".like img[src^='/pictures/']")

    browser.go("/")
    browser.one(".upload summary").click()
    browser.one("#picture").send_keys(str(tmp_path / "new.png"))
    browser.one("#new-tags").send_keys("lost, found")
    browser.one(".upload button").click()
    browser.until(lambda: browser.status() == "The picture was added.")
    browser.one("a[href^='/items/31']").click()
    browser.until(lambda: "lost, found" in browser.one("dl").text)
    browser.one(".delete summary").click()
    browser.one(".danger").click()
    browser.until(lambda: "30 people" in browser.one(".empty").text)

    assert browser.hosts() <= {urllib.parse.urlsplit(browser.address).netloc, ""}
    assert browser.complaints() == []


@pytest.mark.parametrize("scripts", [True, False])
def test_a_language_and_a_closer_look(photos, tmp_path, scripts):
    directory = Path(__file__).parents[1] / "fixtures" / "bi_irra_run"
    gallery = make_gallery(tmp_path / "my.gallery", load(directory), photos)
    with served(f"--gallery={gallery}", f"--model={directory}") as service:
        browser = Browser(service.address, scripts=scripts)
        try:
            browser.one("#q").send_keys("一个穿红色外套的男人")
            Select(browser.one("#language")).select_by_visible_text("Chinese")
            browser.one("#rerank").click()
            browser.one(".search button").click()
            browser.until(lambda: "more closely" in browser.one(".note").text)
            assert browser.query()["language"] == ["zh"] and browser.query()["rerank"] == ["1"]
            assert Select(browser.one("#language")).first_selected_option.text == "Chinese"
            assert browser.one("#rerank").is_selected() and len(browser.all(".grid li")) == 24
            browser.one("[rel=next]").click()
            browser.until(lambda: browser.status().startswith("25 to 30 of 30"))
            browser.go("/?q=un+homme&language=fr")
            assert "en, zh" in browser.one("[role=alert]").text
        finally:
            browser.driver.quit()


def test_deleting_leads_back_to_the_results(browser):
    browser.go("/?q=red&camera=gate")
    browser.one(".grid li a").click()
    browser.until(lambda: browser.all(".delete"))
    browser.one(".delete summary").click()
    browser.one(".danger").click()
    browser.until(lambda: browser.status().startswith("1 to 2 of 2"))
    assert browser.query() == {"q": ["red"], "camera": ["gate"]}


@pytest.mark.parametrize("scripts", [True, False])
def test_a_mistake_is_told_in_the_page(open_browser, scripts):
    browser = open_browser(scripts=scripts)
    browser.one("#q").send_keys("?!", Keys.ENTER)
    browser.until(lambda: "describe the person" in browser.one("[role=alert]").text)
    browser.one("#q").clear()
    browser.one("#q").send_keys("red", Keys.ENTER)
    browser.until(lambda: len(browser.all(".grid .again")) == 24)


def test_the_keyboard_alone(open_browser):
    browser = open_browser()
    browser.go("/?q=red")
    seen = []
    for _ in range(12):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        element = browser.driver.switch_to.active_element
        seen.append(
            element.get_attribute("href") or element.get_attribute("id") or element.tag_name
        )
    order = [
        seen.index("q"),
        seen.index("summary"),
        next(i for i, s in enumerate(seen) if "/items/" in s),
    ]
    assert order == sorted(order), seen


def test_a_phone(open_browser):
    browser = open_browser(width=390)
    for path in ("/", "/?q=red&camera=gate", "/items/1?q=a+man+in+a+red+coat", "/?like=2"):
        browser.go(path)
        width = browser.driver.execute_script("return document.documentElement.scrollWidth")
        assert width <= 390, path


def test_every_field_has_a_label(open_browser):
    browser = open_browser()
    for path in ("/?q=red&like=2&camera=gate", "/items/1?q=red", "/login"):
        browser.go(path)
        for details in browser.all("details:not([open]) > summary"):
            details.click()
        for field in browser.all("input:not([type=hidden]), select, button, meter, img, a"):
            assert field.accessible_name, f"{path}: {field.get_attribute('outerHTML')}"
        assert len(browser.all("h1")) == 1 and browser.one("html").get_attribute("lang")


@pytest.fixture(scope="session")
def axe(tmp_path_factory) -> str:
    """The script of axe-core, which looks for what keeps people out of a page."""
    npm, folder = shutil.which("npm"), tmp_path_factory.mktemp("axe")
    if npm is None:
        pytest.skip("needs npm for axe-core")
    done = subprocess.run([npm, "pack", AXE], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm gives no {AXE}: {done.stderr[-300:]}")
    with tarfile.open(folder / done.stdout.split()[-1]) as package:
        file = package.extractfile("package/axe.min.js")
        assert file is not None
        return file.read().decode()


PAGES = {
    "start": "/",
    "answer": "/?q=a+man+in+a+red+coat&camera=gate",
    "answer and line": "/?q=a+man+in+a+red+coat",
    "find again": "/?q=red&like=2",
    "mistake": "/?q=%3F%21",
    "person": "/items/1?q=a+man+in+a+red+coat",
    "nobody": "/items/999",
    "sign in": "/login",
}


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_keeps_people_out(open_browser, axe, width, scheme):
    browser = open_browser(width=width)
    feature = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": feature})
    for name, path in PAGES.items():
        browser.go(path)
        for details in browser.all("details:not([open]) > summary"):
            details.click()
        browser.driver.execute_script(axe)
        found = browser.driver.execute_async_script(
            "const done = arguments[0]; axe.run().then(done, done)"
        )
        told = [(v["id"], v["nodes"][0]["html"]) for v in found["violations"]]
        assert found["passes"] and told == [], name


def test_the_token_in_a_browser(gallery, model_directory):
    token = "correct-horse-battery"
    options = (f"--gallery={gallery}", f"--model={model_directory}", f"--token={token}")
    with served(*options) as service:
        browser = Browser(service.address, scripts=True)
        try:
            browser.one("#token").send_keys(token, Keys.ENTER)
            browser.until(lambda: browser.all("#q"))
            browser.go("/?q=red")
            assert len(browser.all(".grid img")) == 24
            browser.one("header button").click()
            browser.until(lambda: browser.all("#token"))
            browser.go("/?q=red")
            assert browser.all("#token")
        finally:
            browser.driver.quit()
    assert os.path.getsize(f"{gallery}.audit.jsonl")
