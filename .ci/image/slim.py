"""Leave out of an environment what a worker cannot use: `python slim.py /opt/venv`. What it took is printed.

Everything here is of use to a compiler or to torch's own tests only, and the worker's image has neither.
Libraries stay, all of them: libtorch_cuda.so names most of those in nvidia/ as needed, and some are opened by
names that are put together when it runs.
"""
import shutil, subprocess, sys
from pathlib import Path

# Below site-packages; why it can go.
UNUSED = {
    "triton": "compiles kernels with a C compiler; torch 2.13 prefers it for some products where it is there,"
              " which would fail without one, and takes cuBLAS where it is not",
    "triton-*.dist-info": "the same package's",
    "torch/test": "programs that test torch",
    "torch/bin/*[Tt]est*": "programs that test torch",
    "torch/bin/protoc*": "a compiler of protocols, for building torch",
    "torch/include": "headers",
    "torch/share": "what CMake wants to know",
    "torch/lib/*.a": "for linking programs",
    "nvidia/**/include": "headers",
    "nvidia/**/*.a": "for linking programs",
}


def size(path):
    "Bytes of a file, or of all files in a folder."
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file() and not p.is_symlink()]
    return sum(p.stat().st_size for p in files)


def remove(site):
    "Take it all away; pattern -> bytes."
    taken = {}
    for pattern in UNUSED:
        found = [p for p in sorted(site.glob(pattern)) if p.exists()]
        taken[pattern] = sum(map(size, found))
        for path in found: shutil.rmtree(path) if path.is_dir() else path.unlink()
    return taken


if __name__ == "__main__":
    [site] = Path(sys.argv[1]).glob("lib/python3*/site-packages")
    for pattern, count in remove(site).items(): print(f"{count / 1e6:8.1f} MB  {pattern}: {UNUSED[pattern]}")
    still_works = "import torch; torch.zeros(2, 2) @ torch.zeros(2, 2)"
    subprocess.run([f"{sys.argv[1]}/bin/python", "-c", still_works], check=True)
