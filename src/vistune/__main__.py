"""`python -m vistune`, and `torchrun … -m vistune`: the command line."""

from vistune.cli.app import main

if __name__ == "__main__":
    main()
