"""Product copy of any landing folder by a writer tuned on it: tunes it first, or takes the champion of a home that has one.

    python bench/copy.py --shop PATH [--limit 24] [--json FILE] [--home DIR] [--steps N]

Builds the shop's warehouse in a home of its own, tunes the writer there and lets the gate decide, as `finetune_writer` does,
then prints what bench/writing.py prints: the packaged writer's and the tuned one's raw texts, what would be published of the
tuned one's, and the template. Held-out loss before and after stand above the table. A home that has a writer is not tuned
again. Where the gate refused the writer, the table is still about it, and the first line says so.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
if __name__ != "__main__":
    # Scripts of this folder have it in front of their path, and Python's own module of this name stands behind: be that one.
    import importlib.util
    import sysconfig

    _own = Path(sysconfig.get_path("stdlib")) / "copy.py"
    _spec = importlib.util.spec_from_file_location("copy", _own)
    assert _spec is not None and _spec.loader is not None
    _module = importlib.util.module_from_spec(_spec)
    sys.modules["copy"] = _module
    _spec.loader.exec_module(_module)
    globals().update(vars(_module))


def main() -> int:
    """Tune where nothing is tuned yet, then measure."""
    import argparse
    import os
    import subprocess
    import tempfile

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shop", required=True, help="a landing folder")
    parser.add_argument("--limit", type=int, default=24, help="products to write about")
    parser.add_argument("--json", type=Path, help="write every text with its facts and claims")
    parser.add_argument(
        "--home", type=Path, help="where the writer is, or will be (default: a folder that is removed)"
    )
    parser.add_argument("--steps", type=int, help="steps of tuning (default: NIGHTMARKET_WRITER_STEPS)")
    chosen = parser.parse_args()
    if chosen.home:
        return _measured(chosen, chosen.home, os.environ | {}, subprocess)
    with tempfile.TemporaryDirectory(prefix="nightmarket-copy-") as home:
        return _measured(chosen, Path(home), os.environ | {}, subprocess)


def _measured(chosen: object, home: Path, environment: dict[str, str], subprocess: object) -> int:
    environment["NIGHTMARKET_HOME"] = str(home.resolve())
    environment.setdefault("NIGHTMARKET_THREADS", "2")  # nothing runs beside it
    if chosen.steps:
        environment["NIGHTMARKET_WRITER_STEPS"] = str(chosen.steps)
    from nightmarket import llm, tracking
    from nightmarket.llm import tuned
    from nightmarket.settings import choose_shop

    choose_shop(chosen.shop, home)
    if not tracking.versions(llm.TASK):
        night = [
            sys.executable,
            "-m",
            "nightmarket.cli",
            "run",
            "--shop",
            chosen.shop,
            "--only",
            "build_warehouse,finetune_writer",
        ]
        subprocess.run(night, env=environment, check=True)
    made = tracking.versions(llm.TASK)
    if not made:
        print("The shop has too little text to tune a writer on; this is the packaged one.")
        return subprocess.run(
            _command(chosen, home, ["--writer", "base"]), env=environment, check=False
        ).returncode
    print(
        f"Writer, version {made[-1].version} ({made[-1].tags.get('decision', 'undecided')}): {made[-1].tags.get('in_short')}"
    )
    print(
        {
            name: round(value, 3)
            for name, value in made[-1].metrics.items()
            if name.startswith(("loss", "tuning", "memory"))
        }
    )
    path = tuned.located(made[-1].path)
    return subprocess.run(
        _command(chosen, home, ["--writer", "champion", "--gguf", str(path)]), env=environment, check=False
    ).returncode


def _command(chosen: object, home: Path, writer: list[str]) -> list[str]:
    more = ["--json", str(chosen.json)] if chosen.json else []
    return [
        sys.executable, str(HERE / "writing.py"), "--shop", chosen.shop, "--limit", str(chosen.limit), "--home", str(home),
        *writer, *more,
    ]  # fmt: skip


if __name__ == "__main__":
    # Not from this folder: `import copy` below must find Python's own.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]
    sys.exit(main())
