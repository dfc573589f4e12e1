"""Fetch, check and convert a codec's weights for the image: `python bake.py FOLDER REPOSITORY REVISION`.

Without a repository the folder stays empty. It needs two parts of the package, settings and weights: as long as
these stay as they are, nothing is fetched again.
"""
import os, sys
from pathlib import Path

folder, repository, revision = sys.argv[1:]
os.makedirs(folder, exist_ok=True)
if repository:
    places = dict(CODEC_HOME="linacodec", TORCH_HOME="torch", HF_HOME="hub")
    os.environ.update({name: str(Path(folder, place)) for name, place in places.items()})
    from linacodec_tier3.weights.files import WeightsError
    from linacodec_tier3.weights.store import prefetch
    try: found = prefetch(repository, revision=revision)
    except WeightsError as e: sys.exit(f"BAKE={repository!r}: {e}")
    print(f"{found.name} at {found.revision}: {len(found.files)} files in {folder}")
