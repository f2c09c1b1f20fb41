"""An nginx of one process, with all of its files in one directory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support import services
from tests.support.waiting import until

CONFIGURATION = """
daemon off;
master_process off;
pid {place}/pid;
error_log {place}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {place}/body;
    proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/fastcgi;
    uwsgi_temp_path {place}/uwsgi;
    scgi_temp_path {place}/scgi;
    {server}
}}
"""


def start(place: Path, spawn: Callable[..., Any], server: Callable[[int], str]) -> int:
    """Start nginx with the block that ``server`` makes for a port; return the port."""
    services.require("nginx")
    [port] = services.free_ports(1)
    text = CONFIGURATION.format(place=place, server=server(port))
    (place / "nginx.conf").write_text(text)
    command = [str(services.NGINX), "-c", str(place / "nginx.conf"), "-p", str(place)]
    process = spawn([*command, "-e", str(place / "error.log")])

    def is_up() -> bool:
        assert process.poll() is None, (place / "error.log").read_text()
        return not services.is_free(port)

    until(is_up, 60)
    return port
