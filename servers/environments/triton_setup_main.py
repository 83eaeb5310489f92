"""Makes ``bin/tritonserver`` of an environment that holds ``nvidia-pytriton``; run by that environment's own Python.

The package brings Triton's server, its Python backend and one stub (the process a Python model runs in) for each
version of Python, but no command: the server has to be told where its libraries, its backends and the packages of
its models are. The stub must lie beside the backend. Nothing outside the environment is written.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

STUB = "triton_python_backend_stub"
SCRIPT = """#!/bin/sh
LD_LIBRARY_PATH={libraries}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}
PYTHONPATH={packages}
PATH={programs}:$PATH
export LD_LIBRARY_PATH PYTHONPATH PATH
exec {server} --backend-directory={backends} "$@"
"""


def main() -> int:
    found = find_spec("pytriton")
    if found is None or found.origin is None:
        print("nvidia-pytriton is not installed here", file=sys.stderr)
        return 1
    package = Path(found.origin).resolve().parent
    triton, packages = package / "tritonserver", package.parent
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = triton / "python_backend_stubs" / version / STUB
    if not stub.is_file():
        print(f"this Triton has no Python backend for Python {version}", file=sys.stderr)
        return 1
    placed = triton / "backends" / "python" / STUB
    shutil.copy2(stub, placed)
    placed.chmod(0o755)
    server = triton / "bin" / "tritonserver"
    server.chmod(0o755)
    libraries = f"{sysconfig.get_config_var('LIBDIR')}:{packages / 'nvidia_pytriton.libs'}"
    missing = missing_libraries(placed, libraries)
    if missing:
        print(
            f"Triton's Python backend cannot be loaded: {missing}; it needs the shared library of Python {version} "
            f"(on Debian and Ubuntu: apt-get install libpython{version})",
            file=sys.stderr,
        )
        return 1
    programs = Path(sys.prefix).resolve() / "bin"
    command = programs / "tritonserver"
    command.write_text(
        SCRIPT.format(
            libraries=shlex.quote(libraries),
            packages=shlex.quote(str(packages)),
            programs=shlex.quote(str(programs)),
            server=shlex.quote(str(server)),
            backends=shlex.quote(str(triton / "backends")),
        )
    )
    command.chmod(0o755)
    return 0


def missing_libraries(program: Path, libraries: str) -> str:
    """What the loader says it does not find; empty if nothing is missing. A stub without arguments ends at once."""
    tried = subprocess.run(
        [str(program)],
        env={**os.environ, "LD_LIBRARY_PATH": libraries},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
        check=False,
    )
    return next((line for line in tried.stderr.splitlines() if "shared librar" in line), "")


if __name__ == "__main__":
    sys.exit(main())
