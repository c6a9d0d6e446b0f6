"""The page: `python -m serving.page` draws pictures in a browser. It listens on this machine only, unless told."""

import commands

# isort: split

import argparse
import ipaddress
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import gradio as gr

from canny2image_TRT import hackathon
from cldm.arguments import Range, check_whole
from serving.page_events import Events
from serving.page_layout import CSS, NAME_EXAMPLES, THEME, make_widgets
from serving.shelf import Shelf, check_folders
from serving.studio import Studio
from serving.uploads import MOST_BYTES
from weights.loras import parse_lora

KEY = "CANNY2IMAGE_API_KEY"
USER = "canny2image"
HOUR = 3600  # seconds after which pictures of users are deleted


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m serving.page", description=__doc__)
    add = parser.add_argument
    add("--weights", "--checkpoint", help="BASE, BASE:CONTROL (files or folders) or random:SEED; default: see README")
    add("--vae", help="file or folder with another VAE")
    add("--lora", type=parse_lora, action="append", default=[], metavar="FILE[:STRENGTH]",
        help="merge this LoRA for all pictures; repeat")  # fmt: skip
    add("--weights-folder", type=Path, help="offer the .safetensors checkpoints of this folder")
    add("--lora-folder", type=Path, help="offer the .safetensors LoRAs of this folder")
    add("--backend", default="auto", help="auto (the fastest with engine files), eager, inductor or tensorrt")
    add("--plan", default="ten", help="ten, all, step indices, a plan file or its name, or auto (best on this machine)")
    add("--precision", default="auto", help="auto (fp16 on a GPU), fp32 or fp16")
    add("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda or cuda:N")
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


def free_port(host: str, port: int) -> int:
    """Return the port, or any free one for 0. Raise ValueError if it cannot be used."""
    check_whole("--port", port, Range(0, 65535))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((host, port))
            return int(one.getsockname()[1])
    except OSError as error:
        raise ValueError(
            f"--host {host} --port {port} cannot be used ({error.strerror}): choose another port, or 0 for a free one"
        ) from error


def make_studio(options: argparse.Namespace) -> Studio:
    check_folders([options.weights_folder, options.lora_folder])
    runtime = hackathon(
        options.weights,
        backend=options.backend,
        plan=options.plan,
        precision=options.precision,
        device=options.device,
        vae=options.vae,
        loras=options.lora,
    )
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
        print(f"page: {page.local_url}", flush=True)
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
