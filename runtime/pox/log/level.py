"""Component `log.level --LEVEL --NAME=LEVEL`: what is logged, of everything or of one logger."""
# ruff: noqa: N803 - the names are POX's

from __future__ import annotations

import logging


def launch(__INSTANCE__: object = None, **levels: str | bool) -> None:
    """Set log levels.

    Options: --DEBUG (or INFO, WARNING, ERROR, CRITICAL) for all, --NAME=LEVEL for one logger.
    """
    for name, level in levels.items():
        logger, wanted = ("", name) if level is True else (name, str(level))
        number = logging.getLevelNamesMapping().get(wanted)
        if number is None:
            logging.getLogger("log.level").error("no log level: %s; DEBUG is taken", wanted)
        logging.getLogger(logger).setLevel(number or logging.DEBUG)
