"""Run the README's fenced commands as written: blocks that open with ```bash or ```python.

A block may opt out with a comment `<!-- not run: why -->` on the line before it.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?```(bash|python)\n(.*?)```", re.DOTALL)


def main(readme: Path) -> int:
    root = readme.resolve().parent
    environment = os.environ | {"PATH": f"{root / '.venv' / 'bin'}:{os.environ['PATH']}"}
    ran = 0
    with tempfile.TemporaryDirectory() as scratch:
        for skipped, language, text in BLOCK.findall(readme.read_text()):
            if skipped:
                continue
            program = ["bash", "-euo", "pipefail", "-c"] if language == "bash" else ["python", "-c"]
            print(f"README {language}:\n{text}", flush=True)
            subprocess.run([*program, text], cwd=scratch, env=environment, check=True)
            ran += 1
    print(f"README: {ran} blocks run")
    return 0 if ran else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
