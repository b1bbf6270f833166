"""The command line of `scripts/router-image`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from xen.image.build import INITRD, KERNEL, ROOT, Builder
from xen.image.debian import BuildError

NETWORK_FILES = ("/run/xenflow/network.toml", "/etc/xenflow/network.toml")
INSTALLED = Path("/opt/xenflow")
KEPT = Path("/var/lib/xenflow")
"""Where an installed XenFlow keeps packages and image: the next `install-dom0` replaces INSTALLED,
and a router's configuration names the image's kernel."""
MIN_MEMORY_MIB = 96
"""Of 128 MiB 43 are free with a handful of routes, and below 10 a guest is slow (docs/xen.md)."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="scripts/router-image",
        description=f"Builds the virtual router's image ({KERNEL}, {INITRD}) from Debian packages"
        " and this folder's routerd; nothing is installed, and no root is needed.  With --config:"
        " writes ROUTER.cfg, with which `xl create` starts that router, and ROUTER.initrd.",
        epilog="exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted",
    )
    cache = Path(os.environ.get("XENFLOW_CACHE") or cache_of(ROOT))
    made.add_argument(
        "--cache",
        type=Path,
        default=cache,
        metavar="DIR",
        help=f"where packages and the image are kept (default $XENFLOW_CACHE, else {cache});"
        " the image is in DIR/router",
    )
    made.add_argument("--again", action="store_true", help="build even where nothing has changed")
    made.add_argument(
        "--image", type=Path, metavar="DIR", help="with --config: the image is there; none is built"
    )
    made.add_argument("--config", metavar="ROUTER", help="a router of the network file")
    made.add_argument(
        "--network",
        metavar="FILE",
        default=os.environ.get("XENFLOW_NETWORK", ""),
        help=f"the network file (default $XENFLOW_NETWORK, {', '.join(NETWORK_FILES)})",
    )
    made.add_argument(
        "--address",
        action="append",
        default=[],
        metavar="IF=ADDRESS/LENGTH",
        type=_address,
        help="an interface's address (default: as [lab.routers.ROUTER] in the network file says)",
    )
    made.add_argument(
        "--bird",
        type=Path,
        metavar="FILE",
        help="BIRD's configuration (default: OSPF on every interface)",
    )
    made.add_argument(
        "--memory",
        type=_memory,
        default=128,
        metavar="MIB",
        help=f"the domain's memory (default 128, {MIN_MEMORY_MIB} at least)",
    )
    made.add_argument(
        "--http",
        action="store_true",
        help="the router shows its routes, neighbours and memory to whoever asks at"
        " port 7070 of any of its addresses",
    )
    made.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path("."),
        help="where the two files go (default: here)",
    )
    return made


def cache_of(root: Path) -> Path:
    """Where packages and the image are kept by the XenFlow that lies in `root`."""
    return KEPT if root == INSTALLED else root / ".cache"


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    made = parser()
    options = made.parse_args(arguments)
    image = options.image or options.cache / "router"
    if options.image is not None and options.config is None:
        made.error("--image goes with --config")
    try:
        if options.image is None:
            Builder(options.cache, image, _say).build(again=options.again)
        if options.config is not None:
            _configure(options, image)
    except (BuildError, OSError) as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _configure(options: argparse.Namespace, image: Path) -> None:
    # Not before: the builder needs Python's own library only, the network file netaddr.
    from xen.dom0.host import as_laid
    from xen.image import router_config
    from xenflow.model.network import NetworkError
    from xenflow.store.network_file import load_with_lab

    file = options.network or next((f for f in NETWORK_FILES if Path(f).exists()), "")
    if not file:
        raise BuildError("no network file: --network FILE")
    try:
        network, lab = load_with_lab(file)
        network = as_laid(network)
        known = lab.get("routers", {}).get(options.config, {}).get("addresses", {})
        made = router_config.guest(
            network,
            options.config,
            {**known, **dict(options.address)},
            options.bird.read_text("utf-8-sig") if options.bird else None,
            options.memory,
            http=options.http,
        )
        config, _ = router_config.write(network, made, image.resolve(), options.out.resolve())
    except (NetworkError, router_config.ConfigError) as error:
        raise BuildError(str(error)) from None
    _say(f"xl create {config}")


def _address(text: str) -> tuple[str, str]:
    interface, equals, address = text.partition("=")
    if not interface or not equals:
        raise argparse.ArgumentTypeError(f"{text}: expected IF=ADDRESS/LENGTH")
    return interface, address


def _memory(text: str) -> int:
    if not text.isdecimal() or int(text) < MIN_MEMORY_MIB:
        raise argparse.ArgumentTypeError(
            f"{text}: a router needs {MIN_MEMORY_MIB} MiB at least, and more with many routes or "
            "moves: give a whole number of MiB"
        )
    return int(text)


def _say(text: str) -> None:
    print(f"router-image: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
