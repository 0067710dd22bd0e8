"""The page at `/` in a headless Chromium, at the size of a desk and of a phone.

    pip install playwright
    quest serve &
    python serve/tests/page.py http://127.0.0.1:8000/ /usr/bin/chromium [FOLDER FOR PICTURES]
"""

import pathlib
import sys

from playwright.sync_api import sync_playwright

TEXT = " ".join(f"The code of the {thing} is {n}." for n, thing in enumerate(
    f"{color} {thing}" for color in ["old", "red", "new", "cold"]
    for thing in ["lamp", "door", "river", "tower", "bridge", "stone", "horse", "book"]
)) + " What is the code of the red door? The code of the red door is"


def check(page, url, name, folder):
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(url)
    page.wait_for_function("document.getElementById('model').textContent.includes('tokens')")
    page.click("summary")
    page.fill("#tokens", "24")
    page.fill("#budget", "64")
    page.select_option("#policy", "quest")
    page.fill("#temperature", "0")
    page.click("summary")
    page.fill("#text", TEXT)
    page.click("#send")
    page.wait_for_timeout(300)
    if "no chat template" in page.text_content("#note"):
        problems = [text for text in problems if "400" not in text]
        page.click("#send")
    page.wait_for_function("document.getElementById('note').textContent.includes('of answer')", timeout=60_000)
    answer = page.text_content("#messages .assistant")
    assert answer.strip(), "there is an answer"
    assert page.locator("#messages .assistant span").count() > 1, "token by token"
    assert page.is_visible("#map")
    pages = int(page.text_content("#token").split(":")[1].split()[0])
    assert pages > 10, page.text_content("#token")
    share = int(page.text_content("#token").split(",")[1].split()[0])
    assert 0 < share < 100, "a budget leaves pages out"
    colors = page.evaluate("""() => {
        const map = document.getElementById('map');
        const data = map.getContext('2d').getImageData(0, 0, map.width, map.height).data;
        const colors = new Set();
        for (let i = 0; i < data.length; i += 4) colors.add(`${data[i]},${data[i + 1]},${data[i + 2]}`);
        return colors.size;
    }""")
    assert colors >= 3, "pages read now, earlier and never"
    page.locator("#map").scroll_into_view_if_needed()
    page.locator("#map").hover(position={"x": 5, "y": 5})
    assert page.is_visible("#behind")
    assert page.text_content("#behind").strip(), "the page has text, of a chat model its template"
    page.locator("#map").focus()
    page.keyboard.press("ArrowRight")
    assert page.text_content("#where").startswith("Page 1,"), page.text_content("#where")
    width = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert width <= 0, f"{name}: {width} pixels are cut off"
    assert all(request.startswith((url, "data:")) for request in requests), requests
    assert not problems, problems
    if folder:
        page.screenshot(path=str(folder / f"serve-{name}.png"), full_page=name == "phone")
    page.click("#clear")
    assert page.locator("#messages li").count() == 0
    print(f"{name}: {answer!r}, {pages} pages, {share} % read")


def main():
    url, chromium = sys.argv[1], sys.argv[2]
    folder = pathlib.Path(sys.argv[3]) if len(sys.argv) > 3 else None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, size in [("desk", (1280, 800)), ("phone", (390, 844))]:
            context = browser.new_context(
                viewport={"width": size[0], "height": size[1]}, has_touch=name == "phone", bypass_csp=True
            )
            check(context.new_page(), url, name, folder)
            context.close()
        browser.close()


if __name__ == "__main__":
    main()
