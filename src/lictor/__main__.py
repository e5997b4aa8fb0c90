"""`python -m lictor` is the command line."""

from lictor.cli.main import main

if __name__ == "__main__":
    main()
