"""python -m hwprofiles"""

from hwprofiles.cli import main

if __name__ == "__main__":
    main()
