"""Component `log.level --LEVEL --NAME=LEVEL`: what is logged, of everything or of one logger."""
# ruff: noqa: N803 - the names are POX's

from __future__ import annotations

import logging
from typing import Any


def launch(__INSTANCE__: Any = None, **levels: Any) -> None:
    """Set log levels.

    Options: --DEBUG (or INFO, WARNING, ERROR, CRITICAL) for all, --NAME=LEVEL for one logger.
    """
    for name, level in levels.items():
        logger, wanted = ("", name) if level is True else (name, level)
        number = logging.getLevelNamesMapping().get(str(wanted))
        if number is None and str(wanted).isdigit():
            number = int(wanted)
        if number is None:
            logging.getLogger("log.level").error("no log level: %s; DEBUG is taken", wanted)
            number = logging.DEBUG
        logging.getLogger(logger).setLevel(number)
