"""`python -m adfast`, which is the command `adfast`: for torchrun, which starts modules."""

import sys

from adfast.cli import main

if __name__ == "__main__":
    sys.exit(main())
