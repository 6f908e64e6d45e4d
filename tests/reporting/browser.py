# SPDX-License-Identifier: Apache-2.0
"""Open a page in a real browser (Qt WebEngine, which is Chromium) and tell what happened there.

    python tests/reporting/browser.py light|dark PAGE.html [FOLDER]

Prints JSON: what was seen on a desktop and on a phone, in the color scheme of that system. FOLDER
receives a picture of each, whole pages. It is a program of its own because a browser and torch
should not share a process, and because Chromium learns the system's scheme when it starts.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("QTWEBENGINE_DISABLE_SANDBOX", "1")  # containers run as root
SCHEMES = {"dark": 0, "light": 1}
os.environ["QTWEBENGINE_CHROMIUM_FLAGS"] = (
    f"--disable-gpu --blink-settings=preferredColorScheme={SCHEMES[sys.argv[1]]}"
)
os.environ.setdefault("QT_LOGGING_RULES", "*=false")

from PySide6.QtCore import QEventLoop, Qt, QTimer, QUrl  # noqa: E402
from PySide6.QtTest import QTest  # noqa: E402
from PySide6.QtWebEngineCore import (  # noqa: E402
    QWebEnginePage,
    QWebEngineProfile,
    QWebEngineUrlRequestInterceptor,
)
from PySide6.QtWebEngineWidgets import QWebEngineView  # noqa: E402
from PySide6.QtWidgets import QApplication  # noqa: E402

SCREENS = {"desktop": (1280, 900), "phone": (375, 740)}  # width and height in CSS pixels
NUM_TABS = 8
TALLEST_PICTURE = 8000  # beyond it the browser may not paint in time

FACTS = """
(() => {
  const images = [...document.querySelectorAll('svg, img')];
  const named = (e) => e.closest('[role=img][aria-label], [alt]') !== null;
  const nested = (e) => e.parentElement.closest('svg') !== null;
  const width = document.documentElement.clientWidth;
  return JSON.stringify({
    innerWidth, width, height: document.documentElement.scrollHeight,
    scrollWidth: document.documentElement.scrollWidth,
    wide: [...document.querySelectorAll('body *')].filter((e) =>
      e.getBoundingClientRect().right > width + 1 && !e.closest('.scroll, .unseen')
    ).map((e) => e.tagName + '.' + e.className).slice(0, 5),
    images: images.length,
    unnamed: images.filter((e) => !named(e) && !nested(e)).length,
    headings: [...document.querySelectorAll('h1, h2, h3, h4')].map((e) => Number(e.tagName[1])),
    landmarks: ['header', 'nav', 'main'].map((tag) => document.querySelectorAll(tag).length),
    deadLinks: [...document.querySelectorAll('a[href^="#"]')].filter((a) =>
      !document.getElementById(a.getAttribute('href').slice(1))).length,
    ids: [...document.querySelectorAll('[id]')].map((e) => e.id),
    background: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
  });
})()
"""
FOCUSED = """
(() => {
  const e = document.activeElement, r = e.getBoundingClientRect();
  const outline = getComputedStyle(e.closest('label') ?? e);
  return JSON.stringify({
    tag: e.tagName, name: e.id || e.getAttribute('href') || e.getAttribute('aria-label') || '',
    within: e.closest('nav, header, main')?.tagName ?? '', visible: r.bottom > 0,
    outlined: outline.outlineStyle !== 'none',
  });
})()
"""

SWITCH = """
(() => {
  document.getElementById('scheme-NAME').click();
  return JSON.stringify(getComputedStyle(document.body).backgroundColor);
})()
"""


class Requests(QWebEngineUrlRequestInterceptor):
    """Keeps the address of everything that the page asks for."""

    def __init__(self):
        super().__init__()
        self.urls = []

    def interceptRequest(self, info):  # noqa: N802 - Qt's name
        self.urls.append(info.requestUrl().toString())


class Page(QWebEnginePage):
    """Keeps what the page's console says."""

    def __init__(self, profile):
        super().__init__(profile)
        self.console = []

    def javaScriptConsoleMessage(self, level, message, line, source):  # noqa: N802 - Qt's name
        self.console.append(message)


def wait(milliseconds):
    loop = QEventLoop()
    QTimer.singleShot(milliseconds, loop.quit)
    loop.exec()


def ask(page, script):
    """Return what a script gives, or None after ten seconds."""
    loop, answers = QEventLoop(), []

    def take(answer):
        answers.append(answer)
        loop.quit()

    page.runJavaScript(script, take)
    QTimer.singleShot(10_000, loop.quit)
    loop.exec()
    return json.loads(answers[0]) if answers and isinstance(answers[0], str) else None


def visit(file, width, height, picture):
    profile, requests = QWebEngineProfile(), Requests()
    profile.setUrlRequestInterceptor(requests)
    page, view = Page(profile), QWebEngineView()
    view.setPage(page)
    view.resize(width, height)
    loop, loaded = QEventLoop(), []
    page.loadFinished.connect(lambda ok: (loaded.append(ok), loop.quit()))
    view.load(QUrl.fromLocalFile(str(Path(file).resolve())))
    view.show()
    QTimer.singleShot(30_000, loop.quit)
    loop.exec()
    wait(300)
    facts = ask(page, FACTS)
    view.setFocus()
    stops = []
    for _ in range(NUM_TABS):
        QTest.keyClick(view.focusProxy() or view, Qt.Key.Key_Tab)
        wait(60)
        stops.append(ask(page, FOCUSED))
    schemes = {name: ask(page, SWITCH.replace("NAME", name)) for name in ("light", "dark")}
    ask(page, "document.getElementById('scheme-system').checked = true")
    if picture:
        ask(page, "document.activeElement.blur(); scrollTo(0, 0); 'null'")
        view.resize(width, min(TALLEST_PICTURE, facts["height"] + 40))
        wait(800)
        view.grab().save(str(picture))
    found = {"loaded": loaded, "console": page.console, "requests": requests.urls, "stops": stops}
    found["switched"] = schemes
    view.setPage(None)
    page.deleteLater()
    wait(50)
    return found | facts


def main(scheme, file, folder=None):
    _app = QApplication(sys.argv[:1])
    found = {
        name: visit(file, *size, folder and Path(folder) / f"{name}-{scheme}.png")
        for name, size in SCREENS.items()
    }
    sys.__stdout__.write(json.dumps(found) + "\n")
    sys.__stdout__.flush()
    os._exit(0)  # Chromium's own shutdown is of no interest and may take seconds


if __name__ == "__main__":
    main(*sys.argv[1:])
