"""`python -m toolkit`, which launchers need."""

from toolkit.cli import main

if __name__ == "__main__":
    main(prog_name="toolkit")
