"""`python -m casewise`: the command line."""

from casewise.cli.main import main

if __name__ == "__main__":
    main()
