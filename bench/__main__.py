"""Run every benchmark there is: `python -m bench`, or `make bench`."""

import sys

from bench import node

if __name__ == "__main__":
    sys.exit(node.main())
