"""The page: `python -m serving.page` draws pictures in a browser. It listens on this machine only, unless told."""

import commands

# isort: split

import argparse
import ipaddress
import logging
import os
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import gradio as gr

from canny2image_TRT import hackathon
from cldm.options import add_options, runtime_arguments
from serving.listening import KEY, free_port
from serving.page_events import Events
from serving.page_layout import CSS, NAME_EXAMPLES, THEME, make_widgets
from serving.shelf import Shelf, check_folders
from serving.studio import Studio
from serving.uploads import MOST_BYTES

USER = "canny2image"
HOUR = 3600  # seconds after which pictures of users are deleted


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m serving.page", description=__doc__)
    add = parser.add_argument
    add_options(parser, "weights", "vae", "loras", "backend", "plan", "precision", "device")
    add("--weights-folder", type=Path, help="offer the .safetensors checkpoints of this folder")
    add("--lora-folder", type=Path, help="offer the .safetensors LoRAs of this folder")
    add("--host", default="127.0.0.1", help=f"address to listen on; any but this machine's own needs ${KEY}")
    add("--port", type=int, default=7860, help="0 for any free one; default: 7860")
    add("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)


def account(host: str) -> tuple[str, str] | None:
    """Return user and password for the page, None if it needs none. Raise ValueError if it needs one and has none."""
    key = os.environ.get(KEY)
    if key:
        return USER, key
    if _is_loopback(host):
        return None
    raise ValueError(
        f"--host: {host} can be reached from other machines, which needs a password for user {USER}: set ${KEY}, or "
        "use --host 127.0.0.1"
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name
        return False


def make_studio(options: argparse.Namespace) -> Studio:
    check_folders([options.weights_folder, options.lora_folder])
    runtime = hackathon(**runtime_arguments(options))
    runtime.initialize()
    shelves = Shelf(options.weights_folder, "weights"), Shelf(options.lora_folder, "LoRA")
    return Studio(runtime, options.plan, *shelves)


def make_page(studio: Studio) -> gr.Blocks:
    with gr.Blocks(title="canny2image", analytics_enabled=False, delete_cache=(HOUR // 6, HOUR)) as page:
        widgets = make_widgets(studio)
        events = Events(studio)
        events.connect(widgets)
        shown = [widgets[name] for name in ("status", "model", "loras")]
        page.load(events.refresh, None, shown, api_visibility="private", js=NAME_EXAMPLES)
    return page


def run(options: argparse.Namespace) -> None:
    auth, port = account(options.host), free_port(options.host, options.port)
    studio = make_studio(options)
    with TemporaryDirectory(prefix="canny2image_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # of all files; nothing remains of them
        page = make_page(studio).queue(max_size=32)
        page.launch(
            server_name=f"[{options.host}]" if ":" in options.host else options.host, server_port=port, auth=auth,
            share=False, max_file_size=MOST_BYTES, theme=THEME, css=CSS, state_session_capacity=100,
            run_history=False, enable_monitoring=False, ssr_mode=False, pwa=False, mcp_server=False,
            footer_links=["api"], quiet=True, prevent_thread_lock=True,
        )  # fmt: skip
        print(f"page: {page.local_url}\n", end="", flush=True)  # in one write, as logs are written too
        page.block_thread()


def main() -> None:
    commands.start_logging()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio's requests to itself
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C, so that no pictures remain
    options = parse_arguments(sys.argv[1:])
    with commands.one_line(options.debug, "the page is closed"):
        run(options)


if __name__ == "__main__":
    main()
