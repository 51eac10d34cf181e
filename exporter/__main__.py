"""Entry point of `python -m exporter`, the same as `css-relay-exporter`."""

import sys

from exporter.cli import main

if __name__ == "__main__":
    sys.exit(main())
