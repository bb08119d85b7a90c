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
    import tempfile

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shop", required=True, help="a landing folder")
    parser.add_argument("--limit", default="24", help="products to write about")
    parser.add_argument("--json", help="write every text with its facts and claims")
    parser.add_argument("--home", help="where the writer is, or will be (default: a folder that is removed)")
    parser.add_argument("--steps", help="steps of tuning (default: NIGHTMARKET_WRITER_STEPS)")
    chosen = parser.parse_args()
    written = ["--limit", chosen.limit, *(["--json", chosen.json] if chosen.json else [])]
    if chosen.home:
        return measured(chosen.shop, Path(chosen.home), chosen.steps, written)
    with tempfile.TemporaryDirectory(prefix="nightmarket-copy-") as home:
        return measured(chosen.shop, Path(home), chosen.steps, written)


def measured(shop: str, home: Path, steps: str | None, written: list[str]) -> int:
    """The exit status of bench/writing.py about the newest writer of a home, tuned here if the home has none."""
    import os
    import subprocess

    from nightmarket import llm, tracking
    from nightmarket.llm import tuned
    from nightmarket.settings import choose_shop

    os.environ.setdefault("NIGHTMARKET_THREADS", "2")  # nothing runs beside it
    if steps:
        os.environ["NIGHTMARKET_WRITER_STEPS"] = steps
    choose_shop(shop, home)
    if not tracking.versions(llm.TASK):
        night = [sys.executable, "-m", "nightmarket.cli", "run", "--shop", shop]
        subprocess.run([*night, "--only", "build_warehouse,finetune_writer"], check=True)
    made = tracking.versions(llm.TASK)
    writing = [sys.executable, str(HERE / "writing.py"), "--shop", shop, "--home", str(home), *written]
    if not made:
        print("The shop has too little text to tune a writer on; this is the packaged one.", flush=True)
        return subprocess.run([*writing, "--writer", "base"], check=False).returncode
    last = made[-1]
    print(
        f"Writer, version {last.version} ({last.tags.get('decision', 'undecided')}): {last.tags['in_short']}"
    )
    kept = ("loss", "tuning", "memory", *(text for text in llm.TEXTS if text != "description"))
    print({name: round(v, 3) for name, v in last.metrics.items() if name.startswith(kept)}, flush=True)
    gguf = str(tuned.located(last.path))
    return subprocess.run([*writing, "--writer", "champion", "--gguf", gguf], check=False).returncode


if __name__ == "__main__":
    # Not from this folder: `import copy` below must find Python's own.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]
    sys.exit(main())
