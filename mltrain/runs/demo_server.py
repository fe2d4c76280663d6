"""The local web page of `mltrain demo`, made with Gradio and served by uvicorn.

Nothing leaves this machine: Gradio's statistics are off, its page may load nothing from elsewhere (the policy of the
page forbids it, so a newer Gradio cannot either), and what is uploaded lies in a folder that is removed at the end.
"""

from __future__ import annotations

import errno
import importlib
import ipaddress
import logging
import os
import socket
import tempfile
from collections.abc import Callable
from typing import Any

from mltrain.console import exit_on_signals
from mltrain.errors import ConfigError

logger = logging.getLogger(__name__)

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)
LARGEST = "100mb"
"""of an uploaded image"""


def import_gradio() -> Any:
    """Return the package gradio, with its statistics off.

    Raises:
        ConfigError: it is not installed, or cannot be imported.
    """
    # Gradio and the hub of Hugging Face read these when they are imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        return importlib.import_module("gradio")
    except ImportError as error:
        raise ConfigError(f"the page needs gradio ({error}): pip install 'mltrain-vision[demo]'") from error


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes any free one.

    Raises:
        ConfigError: the port is taken, or the address is not one of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        found = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"host={host}: no address of this machine: {error}") from error
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen()
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port={port}: another program listens there; port=0 takes any free port") from error
        if error.errno == errno.EACCES:
            raise ConfigError(f"port={port}: this system does not let you listen there; port=7860 does") from error
        raise ConfigError(f"host={host}: cannot listen there: {error.strerror or error}") from error
    return found


def is_loopback(host: str) -> bool:
    """Return whether only programs of this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(
    gradio: Any, opened: socket.socket, host: str, *, title: str, heading: str, css: str, answer: Callable[..., Any]
) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        gradio: the package, see `import_gradio`.
        opened: from `listening`.
        host: as asked for.
        title: of the browser's tab.
        heading: HTML above the page.
        css: style of the page.
        answer: takes the path of an image, or None, and gives HTML beside the image and HTML below it.
    """
    import uvicorn
    from fastapi import FastAPI
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    middleware = [Middleware(_Headers)]
    if is_loopback(host):
        # A page elsewhere could lead a name of its own to 127.0.0.1, and read answers under that name.
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]", "::1"]))
    port = opened.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="mltrain-demo-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        blocks, look = _blocks(gradio, title, heading, answer)
        app = gradio.mount_gradio_app(
            FastAPI(middleware=middleware, docs_url=None, redoc_url=None, openapi_url=None),
            blocks,
            path="",
            server_name=host,
            server_port=port,
            footer_links=[],
            show_error=True,
            max_file_size=LARGEST,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            theme=look,
            css=css,
        )
        shown = f"[{host}]" if ":" in host else host
        everywhere = host in ("0.0.0.0", "::")
        if not is_loopback(host):
            logger.warning("host=%s: whoever reaches this machine by the network can use the page", host)
        logger.info("open http://%s:%d in a browser; Ctrl-C ends", "127.0.0.1" if everywhere else shown, port)
        exit_on_signals()  # uvicorn ends well and then raises the signal again: the uploads have to be removed
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        server.run(sockets=[opened])


def _blocks(gradio: Any, title: str, heading: str, answer: Callable[..., Any]) -> tuple[Any, Any]:
    """Return the page as Gradio's blocks, and their theme."""
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # those of this machine
    with gradio.Blocks(title=title, analytics_enabled=False, fill_width=True) as blocks:
        gradio.HTML(heading)
        with gradio.Row():
            with gradio.Column(min_width=300, scale=2):
                image = gradio.Image(
                    type="filepath",
                    sources=["upload", "clipboard"],
                    buttons=[],
                    label="image",
                    height=380,
                )
                # The file itself, whose place Gradio has checked: `read_image` reads it as everywhere else, and says
                # what is wrong with it in one line.
                image.preprocess = lambda payload: payload and payload.path
            with gradio.Column(min_width=300, scale=3):
                beside = gradio.HTML(answer(None)[0])
        below = gradio.HTML(answer(None)[1])
        image.change(
            answer, image, [beside, below], concurrency_limit=1, show_progress="minimal", api_visibility="private"
        )
    return blocks, gradio.themes.Default(primary_hue="slate", **fonts)


class _Headers:
    """ASGI middleware that gives every response the policy of the page."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                added = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message = message | {"headers": [*message["headers"], *added]}
            await send(message)

        await self.app(scope, receive, with_policy)
