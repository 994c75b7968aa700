"""Fresh interpreters that run one function of this package, wherever the package itself came from.

From ``ensemble-worker.pyz`` they import from the same archive; nothing else is needed on the host,
and the environment that the model sees stays untouched. Standard library only.
"""

from __future__ import annotations

import sys
from pathlib import Path

#: Folder or archive that holds the package: three levels above engine/pool/launch.py.
ROOT = Path(__file__).absolute().parents[3]

_BOOT = """\
import sys
root, function, *numbers = sys.argv[1:]
sys.path[:1] = [root]{appended}
module, _, name = function.partition(":")
getattr(__import__(module, fromlist=[name]), name)(*map(int, numbers))
"""
# An archive holds nothing else and must win over another installed version. A folder may be
# site-packages, which must not come before the standard library.
_BOOT_FIRST = _BOOT.format(appended="")
_BOOT_LAST = _BOOT.format(appended="; sys.path.append(sys.path.pop(0))")


def command(function: str, *numbers: int, isolated: bool = False) -> list[str]:
    """Return the argument list of an interpreter that calls a function.

    :param function: ``module:function``.
    :param numbers: its arguments.
    :param isolated: skip everything but the standard library and this package.
    """
    boot = _BOOT_LAST if ROOT.is_dir() else _BOOT_FIRST
    flags = ["-I", "-S"] if isolated else []
    return [sys.executable, *flags, "-c", boot, str(ROOT), function, *map(str, numbers)]
