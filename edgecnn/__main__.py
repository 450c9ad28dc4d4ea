"""`python -m edgecnn`: the same as the `edgecnn` command."""

import sys

from edgecnn.cli import main

if __name__ == "__main__":
    sys.exit(main())
