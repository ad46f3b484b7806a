"""Debian's Chromium driven through selenium, for the tests of pages: start, wait for text, press, take a picture.

Dagster's pages change their class names with each version, so everything here looks for text, roles and links.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

__all__ = ["SCREENSHOTS", "Browser", "open_browser"]

# Read at import: the suite hides the machine's V7_… variables from each test.
SCREENSHOTS = os.environ.get("V7_SCREENSHOTS")
_PACKAGES = ("chromium", "chromium-driver")
_PATIENCE_S = 60.0
_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync --window-size=1500,1000"
)


class Browser:
    """One Chromium with patience: each look waits until the thing is there, or fails with the page's own text."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        self.driver.get(url)

    def resize(self, width: int, height: int) -> None:
        """The window's size in pixels."""
        self.driver.set_window_size(width, height)

    def text(self) -> str:
        """Everything that the page shows at present."""
        return str(self.driver.execute_script("return document.body ? document.body.innerText : ''"))

    def path(self) -> str:
        """The path of the present address."""
        return urlsplit(self.driver.current_url).path

    def until(self, what: str, look: Callable[[], Any], patience_s: float = _PATIENCE_S) -> Any:
        """The first truthy answer of `look`; pytest's failure with the page's text after `patience_s`."""
        from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
        from selenium.webdriver.support.wait import WebDriverWait

        waiting = WebDriverWait(
            self.driver, patience_s, poll_frequency=0.3, ignored_exceptions=[StaleElementReferenceException]
        )
        try:
            return waiting.until(lambda _: look())
        except TimeoutException:
            # What the page showed is what explains the failure.
            pytest.fail(f"no {what} after {patience_s:.0f} s on {self.driver.current_url}:\n{self.text()[:3000]}")

    def see(self, *texts: str, patience_s: float = _PATIENCE_S) -> None:
        """Wait until all `texts` are shown."""
        missing = list(texts)

        def look() -> bool:
            shown = self.text()
            missing[:] = [text for text in texts if text not in shown]
            return not missing

        self.until(f"text {' / '.join(texts)}", look, patience_s)

    def press(self, text: str, patience_s: float = _PATIENCE_S) -> None:
        """Press the first shown and enabled button, tab or link that carries exactly `text`."""
        self._press(text, 0, patience_s)

    def press_last(self, text: str, patience_s: float = _PATIENCE_S) -> None:
        """Press the last one."""
        self._press(text, -1, patience_s)

    def _press(self, text: str, place: int, patience_s: float) -> None:
        from selenium.webdriver.common.by import By

        quoted = f"[self::button or self::a or @role='button' or @role='tab'][normalize-space(.)={text!r}]"

        def look() -> Any:
            found = self.driver.find_elements(By.XPATH, f"//*{quoted}")
            usable = [one for one in found if one.is_displayed() and one.is_enabled()]
            return usable[place] if usable else None

        self.until(f"button {text!r}", look, patience_s).click()

    def press_beside(self, placeholder: str) -> None:
        """Press the first button after the text field that shows `placeholder`."""
        from selenium.webdriver.common.by import By

        path = f"//input[@placeholder={placeholder!r}]/following::button[1]"
        found = self.until(f"field {placeholder!r}", lambda: self.driver.find_elements(By.XPATH, path))
        found[0].click()

    def expand_all_groups(self) -> None:
        """Alt+E, as Dagster's asset graph offers it."""
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        ActionChains(self.driver).key_down(Keys.ALT).send_keys("e").key_up(Keys.ALT).perform()

    def pictures(self, *, named: str) -> list[Any]:
        """The shown and loaded pictures with the alternative text `named`, as the page's own elements."""
        return list(
            self.driver.execute_script(
                "return [...document.images].filter(i => i.alt === arguments[0] && i.complete && i.naturalWidth > 0 "
                "&& i.getBoundingClientRect().width > 0)",
                named,
            )
        )

    def picture(self, name: str) -> None:
        """Save the window as `name`.png in the folder V7_SCREENSHOTS, where that is set."""
        if not SCREENSHOTS:
            return
        folder = Path(SCREENSHOTS)
        folder.mkdir(parents=True, exist_ok=True)
        time.sleep(1.5)  # what fades or slides in has arrived
        self.driver.save_screenshot(str(folder / f"{name}.png"))


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """A headless Chromium with the empty profile folder `profile`; a skip where there is none."""
    _need_chromium()
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in (*_FLAGS.split(), f"--user-data-dir={profile}"):
        options.add_argument(flag)
    driver = Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


def _need_chromium() -> None:
    """Install Debian's Chromium where it is missing and we may; else skip, saying what to do."""
    if all(shutil.which(name) for name in ("chromium", "chromedriver")):
        return
    how = f"apt-get install -y {' '.join(_PACKAGES)}"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip(f"Chromium is not installed; as root: {how}")
    for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-yq", *_PACKAGES]):
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        )
        if done.returncode != 0:
            pytest.skip(f"Chromium could not be installed with {how}: {done.stderr.strip()[-300:]}")
