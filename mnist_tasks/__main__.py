"""Run the command line: `python -m mnist_tasks --help`."""

import sys

from mnist_tasks.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
