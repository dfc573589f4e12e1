"Packaging: everything is read from settings.ini, which nbdev reads too."
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
readme = here / "README.md"
cfg = ConfigParser()
cfg.read(here / "settings.ini", encoding="utf-8")
cfg = cfg["DEFAULT"]
ENGINES = ("kokoro", "kokoro_ja", "kokoro_zh", "piper", "echo", "transformers", "vibevoice", "chatterbox",
           "coqui", "pocket")
EXTRAS = ("notebook", "dev", "slow", "train", "browser", *ENGINES)
extras = {name: cfg[f"{name}_requirements"].split() for name in EXTRAS}
extras["engines"] = list(dict.fromkeys(line for name in ENGINES for line in extras[name]))
extras["dev"] += extras["notebook"]
released = f"v{cfg['version']}"


def described(
    text:str, # README.md
) -> str: # with links that lead somewhere from any page
    "Links to files of the tree, as links to where this release keeps them."
    at = lambda m: f"{cfg['git_url']}/{'raw' if m[1] else 'blob'}/{released}/"
    return re.sub(r"(!?)(\[[^]]*\]\()(?!https?:|#)", lambda m: m[1] + m[2] + at(m), text)


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=described(readme.read_text(encoding="utf-8")) if readme.exists() else "",
    long_description_content_type="text/markdown",
    url=cfg["git_url"],
    project_urls={
        "Documentation": cfg["doc_host"] + cfg["doc_baseurl"],
        "Changelog": f"{cfg['git_url']}/blob/{cfg['branch']}/CHANGELOG.md",
        "Issues": f"{cfg['git_url']}/issues",
    },
    author=cfg["author"],
    author_email=cfg["author_email"],
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords=cfg["keywords"].split(),
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        *(f"Programming Language :: Python :: {version}" for version in ("3", *cfg["pythons"].split())),
    ],
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=[f"{cfg['lib_name']}*"]),
    package_data={f"{cfg['lib_name']}.codec": ["linacodec-nano/**"], f"{cfg['lib_name']}.web": ["*.html"]},
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "linacodec_tier3.engines": cfg["engines"].split(),
    },
    zip_safe=False,
)
