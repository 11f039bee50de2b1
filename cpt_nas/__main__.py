"""python -m cpt_nas"""

from cpt_nas.cli.app import main

main()
