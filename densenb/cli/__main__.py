import sys

from densenb.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
