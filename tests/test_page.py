"""The page in a headless browser, as its user starts it; and its API, as gradio_client calls it."""

import html
import io
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.parameters import load
from tests.studio import bird, write_offers

pytest.importorskip("gradio", reason="./preprocess.sh web installs Gradio")
client = pytest.importorskip("gradio_client")
sync_api = pytest.importorskip("playwright.sync_api", reason="./preprocess.sh dev installs Playwright")
page = pytest.importorskip("serving.page")

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = shutil.which("chromium")
browsing = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
LONG = 30_000  # milliseconds
Start = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with pictures, and the parent of the folders of weights and LoRAs."""
    made = tmp_path_factory.mktemp("page")
    write_offers(made)
    for number in (1, 2):
        with Image.open(bird(made, number)) as image:
            image.resize((96, 64)).save(made / f"small_{number}.png")
    (made / "bad.png").write_bytes(b"<img src=x onerror=alert(1)>")
    (made / "temporary").mkdir()
    return made


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Start the page, return its address, and check that it leaves nothing behind."""
    options = ("--plan", "19,4", "--port", "0", "--device", "cpu")
    offers = ("--weights-folder", str(folder / "weights"), "--lora-folder", str(folder / "loras"))
    environment = {"TMPDIR": str(folder / "temporary"), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(
        [sys.executable, "-m", "serving.page", *options, *offers],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as started:  # fmt: skip
        assert started.stdout is not None
        line = started.stdout.readline()
        try:
            assert line.startswith("page: http://127.0.0.1:"), line
            yield line.split()[1]
        finally:
            started.send_signal(signal.SIGTERM)
            errors = started.communicate(timeout=30)[1]
        refusals = errors.count("gradio.exceptions.InvalidPathError: ")  # Gradio logs each, with a traceback
        assert errors.count("Traceback") == refusals <= 1
        assert [file for file in (folder / "temporary").rglob("*") if file.is_file()] == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def start(browser: Any, address: str) -> Iterator[Start]:
    """Return a function that opens the page in a new tab, and check that no tab asked another server for anything."""
    tabs, asked = [], []

    def open_tab(**options: Any) -> Any:
        tab = browser.new_page(**options)
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(address)
        tab.wait_for_selector("#draw")
        tabs.append(tab)
        return tab

    yield open_tab
    for tab in tabs:
        tab.close()
    assert {url for url in asked if not url.startswith((address, "data:", "blob:"))} == set()


def source(tab: Any, where: str) -> bytes:
    """Return the bytes of a picture that a widget shows."""
    picture = tab.locator(f"{where} img").first
    picture.wait_for(timeout=LONG)
    body: bytes = tab.request.get(picture.get_attribute("src")).body()
    return body


def changed(tab: Any, where: str, act: Callable[[], object]) -> bytes:
    """Return the bytes of a picture that a widget shows after an action that replaces it."""
    shown = tab.locator(f"{where} img").first
    before = shown.get_attribute("src") if shown.count() else None
    act()
    sync_api.expect(shown).not_to_have_attribute("src", before or "", timeout=LONG)
    return source(tab, where)


def fill(tab: Any, name: str, value: str) -> None:
    field = tab.locator(f"#{name} input[type=number], #{name} textarea").first
    field.fill(value)
    field.press("Tab")


def choose(tab: Any, file: Path) -> None:
    tab.locator("#picture input[type=file]").set_input_files(file)


def prepare(tab: Any, file: Path) -> None:
    """Choose a picture, and make results small."""
    tab.get_by_text("Sampling", exact=True).click()
    fill(tab, "image_resolution", "64")
    changed(tab, "#edges", lambda: choose(tab, file))


def draw(tab: Any) -> bytes:
    return changed(tab, "#result", lambda: tab.locator("#draw").click())


def pixels(content: bytes) -> Any:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@browsing
def test_examples_and_the_live_preview(start: Start) -> None:
    tab = start()
    first = changed(tab, "#edges", tab.get_by_label("Example 3").click)
    second = changed(tab, "#edges", lambda: fill(tab, "low_threshold", "400"))
    third = changed(tab, "#edges", lambda: fill(tab, "high_threshold", "500"))
    counts = [(pixels(content) > 0).sum() for content in (first, second, third)]
    assert counts[0] > counts[1] > counts[2] > 0
    assert pixels(first).shape == (256, 384, 3)


@browsing
def test_the_state_of_the_runtime_is_always_visible(start: Start) -> None:
    tab = start()
    status = tab.locator("#status")
    for text in ("Model", "Backend eager", "Device CPU", "Graph no graph: the CPU has none"):
        assert text in status.inner_text()
    tab.mouse.wheel(0, 700)
    tab.wait_for_function("scrollY > 100")
    assert tab.evaluate("document.querySelector('#status').getBoundingClientRect().top") >= 0


@browsing
def test_draw_repeat_by_seed_and_compare(start: Start, folder: Path) -> None:
    tab = start()
    prepare(tab, folder / "small_1.png")
    fill(tab, "seed", "-1")
    tab.locator("#measured input").check()
    first = draw(tab)
    seed = tab.locator("#used_seed textarea, #used_seed input").input_value()
    assert seed != "-1"
    assert float(tab.locator("#latency textarea, #latency input").first.input_value().split()[0]) > 0
    assert pixels(source(tab, "#timeline")).shape[1] > 1000
    tab.locator("#again").click()
    sync_api.expect(tab.locator("#seed input")).to_have_value(seed)
    fill(tab, "seed", "4")
    assert (pixels(draw(tab)) != pixels(first)).any()
    fill(tab, "seed", seed)
    assert draw(tab) == first
    tab.locator("#compare").click()
    sync_api.expect(tab.locator("#slider img")).to_have_count(2, timeout=LONG)
    scores = tab.locator("#scores textarea, #scores input").first
    sync_api.expect(scores).to_have_value(re.compile(r"PD\*? [0-9.]+, SSIM 0\.[0-9]+"))
    tab.locator("#divider input[type=range]").press("End")
    sync_api.expect(tab.locator("#slider img").nth(1)).to_have_attribute(
        "style", re.compile(r"inset\(.* (100|99\.9\d*)%\)")
    )
    fill(tab, "seed", "5")
    draw(tab)
    sync_api.expect(scores).to_have_value("")


@browsing
def test_download_and_load_back(start: Start, folder: Path, tmp_path: Path) -> None:
    tab = start()
    prepare(tab, folder / "small_1.png")
    for name, value in (("prompt", "ein Vögelchen"), ("seed", "123"), ("strength", "0.7"), ("high_threshold", "150")):
        fill(tab, name, value)
    shown = draw(tab)
    with tab.expect_download() as event:
        tab.locator("#download").click()
    event.value.save_as(tmp_path / "made.png")
    content = (tmp_path / "made.png").read_bytes()
    assert content == shown
    assert event.value.suggested_filename == "canny2image_123.png"
    assert load(content)["prompt"] == "ein Vögelchen"
    other = start()
    prepare(other, folder / "small_1.png")
    with other.expect_file_chooser() as chooser:
        other.locator("#upload").click()
    chooser.value.set_files(tmp_path / "made.png")
    sync_api.expect(other.locator("#prompt textarea")).to_have_value("ein Vögelchen")
    sync_api.expect(other.locator("#seed input")).to_have_value("123")
    sync_api.expect(other.locator("#strength input[type=number]")).to_have_value("0.7")
    assert (pixels(draw(other)) == pixels(shown)).all()


@browsing
def test_errors_are_sentences(start: Start, folder: Path) -> None:
    tab = start()
    message = tab.get_by_test_id("toast-body")
    tab.locator("#draw").click()
    sync_api.expect(message).to_contain_text("picture: got none, expected one")
    tab.get_by_label("Close").first.click()
    choose(tab, folder / "bad.png")
    sync_api.expect(message).to_contain_text("damaged or no picture, expected a picture in one of the formats PNG")
    assert "Traceback" not in tab.content()


@browsing
def test_warnings_are_shown(start: Start, folder: Path) -> None:
    tab = start()
    prepare(tab, folder / "small_1.png")
    fill(tab, "prompt", "word " * 100)
    draw(tab)
    sync_api.expect(tab.get_by_test_id("toast-body")).to_contain_text("truncated")


@browsing
def test_two_tabs_get_their_own_pictures(start: Start, folder: Path) -> None:
    tabs = [start(), start()]
    for number, tab in enumerate(tabs, start=1):
        prepare(tab, folder / f"small_{number}.png")
        fill(tab, "seed", str(number))
    for tab in tabs:
        tab.locator("#draw").click()
    made = [source(tab, "#result") for tab in tabs]
    assert [load(content)["seed"] for content in made] == [1, 2]
    assert [tab.locator("#used_seed textarea, #used_seed input").input_value() for tab in tabs] == ["1", "2"]
    tabs[0].locator("#compare").click()
    sync_api.expect(tabs[0].locator("#slider img")).to_have_count(2, timeout=LONG)
    assert (pixels(source(tabs[0], "#slider")) == pixels(made[0])).all()


@browsing
def test_by_keyboard_alone(start: Start, folder: Path) -> None:
    tab = start()
    for _ in range(4):  # past the three buttons of the picture
        tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.ariaLabel") == "Example 1"
    before = changed(tab, "#edges", lambda: tab.keyboard.press("Enter"))
    tab.locator("#low_threshold input[type=range]").focus()
    assert changed(tab, "#edges", lambda: [tab.keyboard.press("ArrowRight") for _ in range(90)]) != before
    tab.get_by_role("button", name="Sampling").focus()
    tab.keyboard.press("Enter")
    fill(tab, "image_resolution", "64")
    tab.locator("#prompt textarea").focus()
    changed(tab, "#result", lambda: tab.keyboard.press("Enter"))


@browsing
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_widths_and_schemes(start: Start, width: int, scheme: str) -> None:
    tab = start(viewport={"width": width, "height": 844}, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    colours = tab.evaluate("getComputedStyle(document.querySelector('#status')).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", colours)[:3])) < 384) == (scheme == "dark")
    columns = [tab.locator(where).bounding_box()["x"] for where in ("#prompt", "#draw")]
    assert (columns[1] > columns[0] + 300) == (width == 1280)


VALUES = {
    "edge_map": False, "prompt": "a bird", "a_prompt": "", "n_prompt": "", "low_threshold": 100, "high_threshold": 200,
    "strength": 1, "guess_mode": False, "scale": 9, "seed": 5, "eta": 0, "ddim_steps": 20, "image_resolution": 64,
    "plan": "19,4", "model": "models/small/model.safetensors", "loras": [], "lora_strengths": "1", "measured": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def api(address: str, folder: Path) -> Any:
    return client.Client(address, verbose=False, download_files=folder / "downloads")


def call(api: Any, folder: Path, **changes: Any) -> Any:
    picture = client.handle_file(folder / "small_1.png")
    return api.predict(**{"picture": picture, **VALUES, **changes}, api_name="/draw")


def test_the_endpoints_have_names(api: Any) -> None:
    assert set(api.view_api(return_format="dict")["named_endpoints"]) == {"/draw", "/edges", "/compare", "/parameters"}


def test_a_client_draws_and_loads_back(api: Any, folder: Path) -> None:
    file, seed, *_ = call(api, folder, model="birds/other", loras=["all"], lora_strengths="0.2")
    assert seed == "5"
    settings = load(Path(file).read_bytes())["settings"]
    assert (settings["Model"], settings["LoRAs"]) == ("birds/other", "<lora:all:0.2>")
    fields = api.predict(client.handle_file(file), api_name="/parameters")
    assert fields[1:4] == ("a bird", "", "")
    assert fields[-3:] == ("birds/other", ["all"], "0.2")
    slider, scores = api.predict(api_name="/compare")
    assert len(slider) == 2
    assert "SSIM" in scores


def test_a_client_gets_edges(api: Any, folder: Path) -> None:
    picture = client.handle_file(folder / "small_2.png")
    edges = api.predict(picture, False, 64, 100, 200, api_name="/edges")
    assert set(np.unique(np.asarray(Image.open(edges).convert("L")))) == {0, 255}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seed": 1.5}, "seed: got 1.5, expected a whole number"),
        ({"low_threshold": "low"}, "low_threshold: got 'low'"),
        ({"image_resolution": 4096}, "image_resolution: 4096 gives a picture of"),
        ({"strength": 1e300}, "strength: got 1e+300"),
        ({"plan": "../mine.json"}, "plan: got '../mine.json', expected 19,4, ten, all"),
        ({"plan": "<b>"}, "plan '<b>': expected"),
        ({"loras": ["all"], "lora_strengths": "x"}, "LoRA strengths: got 'x'"),
    ],
)
def test_a_client_gets_the_same_sentences(api: Any, folder: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(client.exceptions.AppError) as caught:
        call(api, folder, **changes)
    assert sentence in html.unescape(str(caught.value))
    assert "<b>" not in str(caught.value)


def test_no_other_file_can_be_read(address: str, api: Any, folder: Path) -> None:
    httpx = pytest.importorskip("httpx")
    for path in (ROOT / "pyproject.toml", folder / "small_1.png", Path("/etc/passwd"), ROOT / "models" / "small.yaml"):
        assert httpx.get(f"{address}gradio_api/file={path}").status_code in (403, 404)
    foreign = {"path": str(folder / "small_1.png"), "meta": {"_type": "gradio.FileData"}}
    event = httpx.post(f"{address}gradio_api/call/edges", json={"data": [foreign, False, 64, 100, 200]}).json()
    assert "event: error" in httpx.get(f"{address}gradio_api/call/edges/{event['event_id']}").text


def test_another_client_has_no_picture_to_compare(address: str, api: Any, folder: Path) -> None:
    call(api, folder)
    other = client.Client(address, verbose=False)
    with pytest.raises(
        client.exceptions.AppError, match="compare: got no picture, expected one: generate a picture first"
    ):
        other.predict(api_name="/compare")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--host 0.0.0.0", "--host: 0.0.0.0 can be reached from other machines"),
        ("--host ::", "--host: :: can be reached from other machines"),
        ("--host example.org", "--host: example.org can be reached from other machines"),
        ("--port 70000", "--port: got 70000, expected 0 to 65535"),
        ("--port -1", "--port: got -1, expected 0 to 65535"),
        ("--host 127.0.0.1 --port 1.5", "invalid int value"),
        ("--lora-folder nowhere", "nowhere is not a folder"),
        ("--weights-folder pyproject.toml", "pyproject.toml is not a folder"),
    ],
)
def test_bad_options_are_refused_before_weights_are_read(
    options: str, sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(page.KEY, raising=False)
    with pytest.raises((ValueError, SystemExit)) as caught:
        page.run(page.parse_arguments(["--weights", "nowhere", "--port", "0", *options.split()]))
    assert sentence in str(caught.value) + capsys.readouterr().err


def test_a_port_in_use_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"--port {port} cannot be used .*: choose another port"):
            page.free_port("127.0.0.1", port)


def test_the_key_is_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(page.KEY, "secret")
    assert [page.account(host) for host in ("0.0.0.0", "127.0.0.1")] == [("canny2image", "secret")] * 2
    monkeypatch.setenv(page.KEY, "")
    assert [page.account(host) for host in ("localhost", "127.0.0.1", "127.1.2.3", "::1")] == [None] * 4
    with pytest.raises(ValueError, match=r"set \$CANNY2IMAGE_API_KEY, or use --host 127.0.0.1"):
        page.account("0.0.0.0")
