"""python -m hwprofiles"""

from hwprofiles.cli import main

main()
