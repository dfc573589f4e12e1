"""Finish README.md as nbdev left it: `python .ci/readme.py`, which `make readme` does.

GitHub shows files of the tree and plays nothing. So pictures move to nbs/images, a player becomes links to
its sounds there, and links that are right in nbs/ are made right at the root. Python's standard library does.
"""
import base64, json, re, shutil, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS, IMAGES = ROOT / "nbs", ROOT / "nbs" / "images"
MADE = ROOT / "index_files"  # where nbdev puts pictures
PLAYER = re.compile(r'<audio[^>]*title="(\w+)"[^>]*src="data:audio/ogg;base64,([^"]+)"[^>]*></audio>')
SHOWN = re.compile(r'\*\(audio player: see the docs site\)\*|<div class="clips">.*?</div>', re.S)
LINK = re.compile(r'(\]\(|src=")(?!https?:|#|/|nbs/)([^)"#\s]+)')


def write(
    path:Path, # of a file in the tree
    data:bytes, # what it is to hold
) -> None: # an equal file keeps its time
    "Write a file unless it is there."
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_bytes() != data: path.write_bytes(data)


def sounds() -> dict[str, bytes]: # name -> Ogg file
    "What the players in index.ipynb play."
    cells = json.loads((NBS / "index.ipynb").read_text(encoding="utf-8"))["cells"]
    shown = ["".join(out.get("data", {}).get("text/html", "")) for c in cells for out in c.get("outputs", [])]
    return {name: base64.b64decode(data) for html in shown for name, data in PLAYER.findall(html)}


def finished(
    text:str, # README.md as nbdev left it
    names:list[str], # of the sounds
) -> str: # as GitHub shows it
    "The text with what GitHub can show."
    pictures = {p.relative_to(ROOT).as_posix(): p for p in sorted(MADE.rglob("*.png"))}
    for n, (inside, file) in enumerate(pictures.items(), 1):
        write(IMAGES / f"readme-{n}.png", file.read_bytes())
        text = text.replace(f"![]({inside})", f"![what is spoken, and what is sent of it]({inside})")
        text = text.replace(inside, f"images/readme-{n}.png")
    links = ", ".join(f"[{name}](images/{name}.ogg)" for name in names)
    text = SHOWN.sub(f"Hear it: {links} (GitHub plays no sound; the docs site does)", text)
    inside = lambda link: link.endswith(".ipynb") or (NBS / link).exists()
    return LINK.sub(lambda m: m[1] + "nbs/" * inside(m[2]) + m[2], text)


def main():
    found = sounds()
    for name, data in found.items(): write(IMAGES / f"{name}.ogg", data)
    readme = ROOT / "README.md"
    text = finished(readme.read_text(encoding="utf-8"), list(found))
    if "<audio" in text or "audio player" in text: sys.exit(".ci/readme.py: a player is left in README.md")
    write(readme, text.encode())
    shutil.rmtree(MADE, ignore_errors=True)


if __name__ == "__main__": main()
