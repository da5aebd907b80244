"""What is written for people agrees with what the core knows."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_of_commands_is_as_the_command_table_is() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools" / "document_commands.py", "--check"])
    assert done.returncode == 0, "docs/commands.md is not what the command table says: run `make docs`"


def test_every_link_between_the_pages_leads_somewhere() -> None:
    import re

    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
