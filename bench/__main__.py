"""Run every benchmark there is: `python -m bench`, or `make bench`."""

import sys

from bench import node, proxy

if __name__ == "__main__":
    sys.exit(node.main() or proxy.main())
