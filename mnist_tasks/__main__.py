"""Run the command line: `python -m mnist_tasks --help`."""

from mnist_tasks.cli.main import run

if __name__ == "__main__":
    run()
