"Packaging: everything is read from settings.ini, which nbdev reads too."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
readme = here / "README.md"
cfg = ConfigParser()
cfg.read(here / "settings.ini", encoding="utf-8")
cfg = cfg["DEFAULT"]
EXTRAS = ("notebook", "dev", "slow", "train", "kokoro", "kokoro_ja", "piper", "browser")
extras = {name: cfg[f"{name}_requirements"].split() for name in EXTRAS}
extras["dev"] += extras["notebook"]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    url=cfg["git_url"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    license="Apache-2.0",
    keywords=cfg["keywords"],
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=[f"{cfg['lib_name']}*"]),
    package_data={f"{cfg['lib_name']}.codec": ["linacodec-nano/**"]},
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "linacodec_tier3.engines": cfg["engines"].split(),
    },
    zip_safe=False,
)
