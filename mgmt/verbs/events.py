"""`xenflow events`: what has happened in the network, the last thing last, by way of the store.

Changes that were made, refused, confirmed or put back, migrations, and who plans.  The last 1,000
are kept.  With --follow it goes on with what happens from now on, until it is interrupted.
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser, Namespace
from datetime import datetime
from typing import Any

from mgmt.client import AskError
from mgmt.session import ManagementSession
from mgmt.verbs import Exit, complain
from mgmt.verbs.apply import ask_planner

NAME = "events"
SUMMARY = "what has happened in the network, by way of the store"
LOOK_S = 1.0
"""How often --follow asks."""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what happens")
    parser.add_argument("--json", action="store_true", help="print JSON, an object a line")


def run(args: Namespace, session: ManagementSession) -> int:
    last, trouble = _show(args, ask_planner(session, "events")["events"], 0), ""
    while args.follow:
        time.sleep(LOOK_S)
        try:
            last = _show(args, ask_planner(session, "events", since=last)["events"], last)
            trouble = ""
        except AskError as error:  # another planner may follow in a moment
            if str(error) != trouble:
                complain(error)
            trouble = str(error)
    return Exit.OK


def _show(args: Namespace, events: list[dict[str, Any]], last: int) -> int:
    """Print events; returns the number of the last one."""
    for event in events:
        when = datetime.fromtimestamp(event["when"]).isoformat(" ")
        who = " from ".join(filter(None, (event["by"], event["from"])))
        words = f"{event['words']}: " if event["words"] else ""
        line = f"{when}  {event['what']}: {words}{event['outcome']} (by {who})"
        print(json.dumps(event) if args.json else line, flush=True)
    return max((event["number"] for event in events), default=last)
