"""Write docs/commands.md from the command table of the core: `make docs`.

With --check it only says whether the page is as the table is, and exits with 1 when it is not.
"""

import sys
from itertools import groupby
from pathlib import Path

from fastcache import _core

PAGE = Path(__file__).parent.parent / "docs" / "commands.md"
HEAD = """# All commands

Written by `make docs` from the command table of the core; COMMAND tells the same at run time. Where a
command answers otherwise than Redis 7.0.15 does, [protocol.md](protocol.md) says so.
"""


def page() -> str:
    """The whole page."""
    rows = _core.command_table()
    # A command that only passes on to its sub-commands is told by these.
    parents = {name.partition("|")[0] for name, *_ in rows if "|" in name}
    told = sorted((row for row in rows if row[0] not in parents), key=lambda row: (row[2], row[0]))
    parts = [HEAD, f"{len(told)} commands.\n"]
    for group, members in groupby(told, key=lambda row: row[2]):
        parts.append(
            f"## {group.replace('-', ' ').capitalize()}\n\n| command | since | |\n| --- | --- | --- |"
        )
        for name, syntax, _, since, summary in members:
            call = f"{name.replace('|', ' ').upper()} {syntax}".strip()
            parts.append(f"| `{escaped(call)}` | {since} | {summary} |")
        parts[-1] += "\n"
    return "\n".join(parts)


def escaped(call: str) -> str:
    """A bar would end the cell, even between backquotes."""
    return call.replace("|", "\\|")


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(PAGE.read_text() != page())
    PAGE.write_text(page())
