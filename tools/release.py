"""The release checklist: every step that can be checked is checked, and the first that fails ends it.

    make release-check                      # build, look into the archives, install them, try them
    .venv/bin/python tools/release.py --tag # the same from a clean checkout of a released changelog, then a git tag

It uploads nothing. After ``--tag`` it prints the two commands that do.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"

#: What a wheel must have, and patterns of what it must not: training code, suites of tests, caches.
IN_WHEEL = ("seka_rag/py.typed", "seka_rag/demo/model/model.safetensors", "seka_rag/demo/bank/bank.safetensors",
            *("/".join(p.relative_to(ROOT).parts[2:]) for p in (ROOT / "integrations").rglob("py.typed")))  # fmt: skip
NOT_IN_WHEEL = (r"(^|/)tests?/", r"(^|/)test_", r"^tools/", r"^examples/", r"train", r"conformance", r"__pycache__", r"\.pyc$",
                r"^llama_index/__init__\.py$", r"^llama_index/llms/__init__\.py$")  # fmt: skip
IN_SDIST = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "NOTICE", "Makefile", "mkdocs.yml",
            "constraints.txt", "constraints-lowest.txt", "tests/conftest.py", "tests/parity/reference.safetensors",
            "tools/release.py", "docs/index.md", "examples/langchain_rag.py")  # fmt: skip
#: Rooms whose tests need neither an installed console script nor much time.
SDIST_TESTS = ("tests/text", "tests/ops", "tests/bank", "tests/steering", "tests/highlight", "tests/retrieval")

# Run with the bare wheel and nothing of its extras, far from the checkout.
SMOKE = """
import seka_rag
from seka_rag.errors import MissingExtraError
model = seka_rag.SteeredModel.from_pretrained("seka-demo")
prompt = seka_rag.Prompt("Context:\\nAlec moved to Lyon last year.\\n\\nQuestion: Where does Alec live?\\nAnswer:")
out = model.chat([{"role": "user", "content": prompt.highlight("Alec moved to Lyon last year.")}], max_new_tokens=8)
assert out.report.tokens_edited == out.report.tokens_marked > 0, out.report
try:
    import langchain_seka
except ImportError as error:
    assert "seka-rag[langchain]" in str(error), error
else:
    raise AssertionError("langchain-core came along")
print(f"seka-rag {seka_rag.__version__}: {out.text!r}, {out.report.tokens_edited} tokens edited")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tag", action="store_true", help="afterwards, make the git tag of this version")
    parser.add_argument(
        "--torch-index", default="https://download.pytorch.org/whl/cpu", help="where CPU builds of torch are"
    )
    options = parser.parse_args()
    version = source_version()
    if options.tag:
        step("the checkout is clean, and the changelog names the date of this version")
        check(not output("git", "status", "--porcelain"), "commit or remove what `git status` shows")
        check(f"v{version}" not in output("git", "tag").split(), f"v{version} is tagged already: raise the version")
    check_changelog(version, released=options.tag)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        tools = venv(work / "tools")
        run(tools, "-m", "pip", "install", "-q", "build", "twine")
        wheel, sdist = build(tools, version)
        check_wheel(wheel, version)
        check_sdist(sdist, version)
        step("twine check")
        run(tools, "-m", "twine", "check", "--strict", wheel, sdist)
        try_wheel(wheel, work, options.torch_index)
        try_sdist(sdist, work)
    print(f"\nseka-rag {version} can be released. Wheel {wheel.stat().st_size / 2**20:.2f} MiB.")
    if options.tag:
        run("git", "tag", "-a", f"v{version}", "-m", f"seka-rag {version}")
        print(f"tagged. Now: git push origin v{version}; python -m twine upload {wheel} {sdist}")


def source_version() -> str:
    return re.search(r'^__version__ = "(.+)"$', (ROOT / "seka_rag/__init__.py").read_text("utf-8"), re.M)[1]  # type: ignore[index]


def check_changelog(version: str, *, released: bool) -> None:
    """The notes of a release are the newest section of the changelog."""
    step("the changelog begins with this version")
    heading = re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    date = r"\(\d{4}-\d\d-\d\d\)" if released else r"\(.+\)"
    check(
        heading is not None and re.fullmatch(rf"{re.escape(version)} {date}", heading[1]),
        f"the first heading of CHANGELOG.md is {heading and heading[1]!r}; a release needs '{version} (YYYY-MM-DD)'",
    )


def build(tools: Path, version: str) -> tuple[Path, Path]:
    step("build")
    shutil.rmtree(DIST, ignore_errors=True)
    run(tools, "-m", "build", "--outdir", DIST, ROOT)
    return DIST / f"seka_rag-{version}-py3-none-any.whl", DIST / f"seka_rag-{version}.tar.gz"


def check_wheel(wheel: Path, version: str) -> None:
    """Its files, its version, and that no link of its description is relative."""
    step("what is in the wheel")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = Parser().parsestr(archive.read(f"seka_rag-{version}.dist-info/METADATA").decode("utf-8"))
    expect(IN_WHEEL, names)
    wrong = [name for name in names for pattern in NOT_IN_WHEEL if re.search(pattern, name)]
    check(not wrong, f"these do not belong into the wheel: {wrong}")
    check(metadata["Version"] == version, f"its version is {metadata['Version']}, that of the source {version}")
    text = re.sub(r"^```.*?^```$", "", metadata.get_payload(), flags=re.M | re.S)
    relative = re.findall(r"\]\((?!https://|#)([^)]*)\)", text)
    check(not relative, f"relative links in the description, which the package index cannot follow: {relative}")


def check_sdist(sdist: Path, version: str) -> None:
    step("what is in the source archive")
    with tarfile.open(sdist) as archive:
        expect([f"seka_rag-{version}/{name}" for name in IN_SDIST], archive.getnames())


def try_wheel(wheel: Path, work: Path, torch_index: str) -> None:
    """With the dependencies that its metadata names, and no more."""
    step("the wheel, alone in a fresh environment")
    python = venv(work / "bare")
    index = ("--retries", "0", "--extra-index-url", torch_index)
    run(python, "-m", "pip", "install", "-q", *index, "-c", ROOT / "constraints.txt", wheel)
    run(python, "-c", SMOKE, cwd=work)
    run(python.with_name("seka-rag"), "--version", cwd=work)


def try_sdist(sdist: Path, work: Path) -> None:
    """The tests of the unpacked archive, with the dependencies of this environment and none of the checkout."""
    step("the tests of the source archive")
    with tarfile.open(sdist) as archive:
        archive.extractall(work)
    python = venv(work / "source")
    site = next((work / "source").glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    run(python, "-m", "pip", "install", "-q", "--no-deps", sdist)
    run(python, "-m", "pytest", "-p", "no:cacheprovider", *SDIST_TESTS, cwd=work / sdist.name.removesuffix(".tar.gz"))


# --- small tools


def step(text: str) -> None:
    print(f"\n== {text}", flush=True)


def check(holds: object, message: str) -> None:
    if not holds:
        sys.exit(f"not ready: {message}")


def expect(names: Iterable[str], found: Iterable[str]) -> None:
    missing = set(names) - set(found)
    check(not missing, f"missing: {sorted(missing)}")


def venv(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder / "bin" / "python"


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    if subprocess.run([str(part) for part in command], cwd=cwd, check=False).returncode:
        sys.exit(f"not ready: this failed: {' '.join(map(str, command))[:200]}")


def output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
