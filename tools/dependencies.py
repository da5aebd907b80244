"""Print what must be installed before FastCache itself can be: its build tool and its dependencies.

They are read from pyproject.toml, their one home, and printed as a file of requirements.
"""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
print("\n".join(project["build-system"]["requires"] + project["project"]["dependencies"]))
