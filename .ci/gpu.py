"""Measure the codec on the card that this machine has, as `make gpu` does.

`python3 .ci/gpu.py --pack build/gpu-pack --out out/gpu --limit 150` needs Python 3.12, torch and numpy, and
no network: what else the package imports is unpacked from the wheels in `--pack` (`make gpu-pack` gets them).
Each step runs in a process of its own with a time limit. `gpu.json` in `--out` is written anew whenever a
step has something new, so a run that is cut off keeps what it had. The most valuable steps come first, or
those of `--steps` in their order. `--known gpu.json` takes over what an earlier run found, and says of each
finding which run it is from: `correctness` then begins with what that run lacks.
`--device cpu --rehearse` does everything with small sizes on a processor.
"""
import argparse, hashlib, inspect, itertools, json, math, os, platform, signal, statistics, subprocess, sys
import tempfile, threading, time, traceback, warnings, zipfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "linacodec_tier3"
MB = 2**20
DTYPES = ("float32", "tf32", "float16", "bfloat16")
EDGE = 1e-4  # a token may differ where the number it was rounded from lies so close to a rounding edge


# ---- steps, each in a process of its own


@dataclass(frozen=True)
class Step:
    "What one process does, with its limits."
    name:str # its key in the results
    work:object # function of a `Bench`
    most_s:float # seconds until it is killed
    least_s:float # with less time left it is not started
    beside:str # the step at the same time as which it runs; its own name: none
    pieces:bool # whether its findings consist of pieces that may come from different runs


STEPS:dict[str, Step] = {}


def step(
    most_s:float, # seconds until it is killed
    least_s:float=8., # with less time left it is not started
    beside:str="", # the step at the same time as which it runs
    pieces:bool=False, # whether its findings consist of pieces that may come from different runs
):
    "Make a function of a `Bench` a step, after those that there are."
    def known(work):
        STEPS[work.__name__] = Step(work.__name__, work, most_s, least_s, beside or work.__name__, pieces)
        return work
    return known


def plain(x):
    "What json cannot write itself."
    if hasattr(x, "tolist"): return x.tolist()
    return str(x)


def rounded(x):
    "Numbers as far as they say something, so that the file stays small; what is no number becomes null."
    if isinstance(x, dict): return {str(k): rounded(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)): return [rounded(v) for v in x]
    if hasattr(x, "dtype") and hasattr(x, "tolist"): return rounded(x.tolist())
    if isinstance(x, float): return float(f"{x:.5g}") if math.isfinite(x) else None
    return x


def write_json(
    path:Path, # replaced as a whole
    value:dict, # what it will hold
):
    "Write a file that is never half written."
    part = path.with_suffix(".part")
    part.write_text(json.dumps(rounded(value), indent=1, default=plain), encoding="utf-8")
    part.replace(path)


def failure(e:BaseException) -> dict: # JSON
    "An error in one line, and where it came from, without this machine's folders."
    frames = traceback.extract_tb(e.__traceback__)[-6:]
    where = [f"{Path(f.filename).name}:{f.lineno} {f.name}: {f.line}" for f in frames]
    return dict(error=f"{type(e).__name__}: {' '.join(str(e).split())[:400]}", where=where)


class Bench:
    "What a step works with: the device, the sizes, the time left, and a place for what it finds."
    def __init__(self, device, small, room, result, until):
        self.device, self.small, self.room = device, small, Path(room)
        self.result, self.until, self.found, self.writing = Path(result), until, {}, threading.Lock()
        self.gpu, file = device != "cpu", self.room / "known.json"
        self.earlier = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        self.known = deep(self.earlier, "found", self.result.stem) or {}  # what earlier runs found

    def lacks(self, name, piece) -> bool:
        "Has no earlier run found a piece of a finding?"
        return "error" in (deep(self.known, name, piece) or dict(error="none"))

    def older(self, name, piece) -> bool:
        "Has other code found it?"
        found = deep(self.known, name, piece) or {}
        return "run" in found and found["run"] not in self.earlier.get("same_code", ())

    def left(self) -> float: return self.until - time.monotonic() # seconds
    def size(self, full, small): return small if self.small else full # of the two

    def save(self):
        "Hand over what has been found so far."
        with self.writing: write_json(self.result, dict(self.found))

    def part(self, name, do, least_s=0.):
        "One finding; an error is one too. Without time left it is skipped."
        if self.left() < least_s:
            self.found.setdefault("skipped", []).append(name)
            return self.save()
        began = time.perf_counter()
        try: value = do()
        except Exception as e: value = failure(e)
        if isinstance(value, dict): value.setdefault("took_s", time.perf_counter() - began)
        self.found[name] = value
        self.save()
        return value

    def sync(self):
        "Wait until the device has done everything."
        if self.gpu:
            import torch
            torch.cuda.synchronize()

    def free(self):
        "Give unused memory back."
        import gc
        gc.collect()
        if self.gpu:
            import torch
            torch.cuda.empty_cache()

    @contextmanager
    def peak(self):
        "How much memory a block takes beyond what was taken before, as `mb`."
        got = SimpleNamespace(mb=None)
        if not self.gpu:
            yield got
            return
        import torch
        self.sync()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield got
        self.sync()
        got.mb = (torch.cuda.max_memory_allocated() - before) / MB

    def clock(self, do, least=3, most=9, within_s=.25) -> dict: # milliseconds
        "How long something takes, the device's work included: the first time does not count."
        self.sync()
        began = time.perf_counter()
        do()
        self.sync()
        slow = time.perf_counter() - began > 1
        took, ends, least = [], time.perf_counter() + within_s, 1 if slow else least
        while len(took) < least or (len(took) < most and time.perf_counter() < ends):
            self.sync()
            began = time.perf_counter()
            do()
            issued = time.perf_counter()
            self.sync()
            took.append((time.perf_counter() - began, issued - began))
        total, host = zip(*took)
        return dict(ms=1e3 * statistics.median(total), least_ms=1e3 * min(total), n=len(took),
                    host_ms=1e3 * statistics.median(host))


# ---- what the steps share


def babble(seconds:float, seed:int): # float32, 24 kHz
    "Something with a voice's movements, from a seed."
    import numpy as np
    rng, t = np.random.RandomState(seed), np.arange(round(seconds * 24_000)) / 24_000
    def curve(low, high, hz):
        at = np.arange(0, seconds + 2, 1 / hz)
        return np.interp(t, at, rng.uniform(low, high, len(at)))
    phase = 2 * np.pi * np.cumsum(curve(90, 220, 4)) / 24_000
    x = sum(curve(0, 1, 8) * np.sin(h * phase) / h for h in range(1, 25))
    x += curve(0, .5, 6) * rng.standard_normal(len(t))
    return (.1 * curve(0, 1, 5) * x).astype(np.float32)


def recordings(b:Bench) -> dict[str, list]: # name -> recordings, float32 at 24 kHz
    "What is encoded: one, sixteen of different lengths, and one that is longer than a segment."
    import numpy as np
    lengths = np.random.RandomState(5).uniform(.7, b.size(12., 2.), b.size(16, 4))
    ragged = [babble(s, i + 10) for i, s in enumerate(lengths)]
    return dict(ten=[babble(b.size(10, 1.5), 1)], ragged=ragged, long=[babble(b.size(126, 11), 2)])


def in_segments(b, what) -> dict: # arguments of encode and decode
    "In the rehearsal what is long is short, and segments are shorter still."
    return dict(segment_s=3.) if b.small and what == "long" else {}


def weights(b:Bench, model:str) -> str: # repository or folder
    "Where a codec's weights are; those of the published sizes are random ones from a seed."
    return "linacodec-nano" if model == "nano" else str(b.room / "published")


def own_policy() -> bool: # False: torch's switches are this script's business
    "Whether the package decides about TF32 itself."
    from linacodec_tier3.codec import linacodec
    return "tf32" in getattr(linacodec, "DTYPES", ()) or chooses_encoding()


def chooses_encoding() -> bool:
    "Whether encoding can have a precision of its own."
    from linacodec_tier3.codec import LinaCodec
    return "encode_dtype" in inspect.signature(LinaCodec.from_pretrained).parameters


def load(b:Bench, model="published", dtype="float32", encode=None, device=None):
    "A codec in a precision; `encode` is that of encoding, where the package lets one choose."
    import torch
    from linacodec_tier3.codec import LinaCodec
    more = dict(device=device or b.device) | (dict(encode_dtype=encode) if encode else {})
    if own_policy(): return LinaCodec.from_pretrained(weights(b, model), dtype=dtype, **more)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = dtype == "tf32"
    return LinaCodec.from_pretrained(weights(b, model), dtype="float32" if dtype == "tf32" else dtype, **more)


def precisions(b:Bench) -> list[tuple]: # (dtype, dtype of encoding or None)
    "All that can be asked for; where encoding has a precision of its own, what it has only when asked, too."
    both = [(d, d) for d in ("tf32", "bfloat16")] if chooses_encoding() else []
    return [(d, None) for d in DTYPES] + both


def named(dtype, encode): return dtype if encode is None else f"{dtype}, encoding too"


@contextmanager
def before_rounding():
    "Collects what the quantiser is about to round, as far as it does that where it can be watched."
    from linacodec_tier3.codec import fsq
    seen, bounded = [], fsq.bounded
    def watched(*a, **k):
        seen.append(bounded(*a, **k))
        return seen[-1]
    fsq.bounded = watched
    try: yield seen
    finally: fsq.bounded = bounded


def heard(codec, audio, **more): # tokens, embedding, and (tokens, digits) float64 before rounding, or None
    "One recording encoded alone."
    with before_rounding() as seen: tokens, voice = codec.encode(audio, 24_000, **more)
    if len(seen) != 1: return tokens, voice, None
    return tokens, voice, seen[0].double().cpu().numpy().reshape(-1, seen[0].shape[-1])[:len(tokens)]


def as_array(x): # numpy, float64
    "A tensor or an array, on the CPU."
    import numpy as np
    return np.asarray(x.detach().float().cpu() if hasattr(x, "detach") else x, dtype=np.float64)


def error_of(x, reference) -> dict: # relative to the reference's peak, and to its power
    "How far something is from what it should be."
    import numpy as np
    x, reference = as_array(x), as_array(reference)
    if x.shape != reference.shape: return dict(shape=f"{x.shape} instead of {reference.shape}")
    d = np.abs(x - reference)
    return dict(finite=bool(np.isfinite(x).all()), worst=float(d.max()),
                of_peak=float(d.max() / np.abs(reference).max()),
                relative=float(np.linalg.norm(x - reference) / np.linalg.norm(reference)))


def token_errors(
    pairs:list, # tokens and embedding of each recording
    wanted:list, # the CPU's, and what it rounded, or None
) -> dict: # tokens in all, differing, and differing away from a rounding edge
    "Tokens and embeddings against those of the CPU."
    import numpy as np
    count = Counter(tokens=0, differing=0, away=0, unjudged=0)
    worst, voice = 0., 0.
    for (tokens, v), (wanted_tokens, wanted_v, z) in zip(pairs, wanted):
        tokens, wanted_tokens = as_array(tokens), as_array(wanted_tokens)
        if tokens.shape != wanted_tokens.shape:
            return dict(shape=f"{tokens.shape} instead of {wanted_tokens.shape}")
        where = np.flatnonzero(tokens != wanted_tokens)
        count.update(tokens=len(tokens), differing=len(where))
        if z is None: count["unjudged"] += len(where)
        elif len(where):
            margins = np.abs(z[where] - np.floor(z[where]) - .5).min(-1)  # of the closest of the numbers
            worst = max(worst, float(margins.max()))
            count["away"] += int((margins > EDGE).sum())
        voice = max(voice, float(np.abs(as_array(v) - as_array(wanted_v)).max()))
    return dict(count, worst_margin=worst, embedding=voice, finite=math.isfinite(voice))


class Reference:
    "What the CPU made of the recordings."
    def __init__(self, b, model): self.b, self.model = b, model

    def arrays(self, what): # as `prepare` stored them
        "What is stored of some recordings."
        import numpy as np
        with np.load(self.b.room / f"{self.model}.{what}.npz") as f: return dict(f.items())

    def encoded(self, what): # list of (tokens, embedding, before rounding or None)
        "What is to come out of the encoder."
        found = self.arrays(what)
        n, kinds = sum(name.startswith("tokens.") for name in found), ("tokens", "voice", "before")
        return [tuple(found.get(f"{kind}.{i}") for kind in kinds) for i in range(n)]

    def made(self, what): # list of (waveform, log-mel)
        "What is to come out of the decoder."
        found = self.arrays(what)
        waves = [name for name in found if name.startswith("wave.")]
        return [(found[name], found[name.replace("wave", "mel")]) for name in waves]


def attempted(do): # its result, or an error as JSON
    "A piece of a finding, without which the others are still worth having."
    try: return do()
    except Exception as e: return failure(e)


# ---- the steps


@step(75)
def prepare(b):
    "Random weights of the published sizes, and what the CPU makes of the recordings, to compare with."
    import torch
    from linacodec_tier3.codec.seeded import write_seeded
    spec = b.size("published", "tiny")
    def draw(): return dict(spec=spec, folder=write_seeded(b.room / "published", spec).name)
    drawing = threading.Thread(target=lambda: b.part("weights", draw))  # numpy draws on one core
    drawing.start()
    sounds, codecs = recordings(b), dict(nano=load(b, "nano", device="cpu"))
    seconds = {what: sum(map(len, audios)) / 24_000 for what, audios in sounds.items()}
    b.part("sounds", lambda: seconds | dict(threads=torch.get_num_threads()))
    for what in ("ten", "ragged"): b.part(f"nano, {what}", lambda: reference(b, codecs, "nano", what, sounds))
    drawing.join()
    codecs["published"] = load(b, "published", device="cpu")
    right = deep(b.earlier, "found", "correctness") or {}
    rest = [("published", "ten"), ("published", "ragged")]
    rest += [(m, "long") for m in ("published", "nano") if not deep(right, f"{m}, float32", "long", "tokens")]
    for model, what in rest: b.part(f"{model}, {what}", lambda: reference(b, codecs, model, what, sounds))


def reference(b, codecs, model, what, sounds) -> dict:
    "Store what the CPU makes of some recordings."
    import numpy as np
    codec, found = codecs[model], {}
    for i, audio in enumerate(sounds[what]):
        tokens, voice, z = heard(codec, audio, **in_segments(b, what))
        wave, mel = codec.decode(tokens, voice, **in_segments(b, what)), codec.mel(tokens, voice)
        kinds = dict(tokens=tokens, voice=voice, wave=wave, mel=as_array(mel), before=z)
        found |= {f"{kind}.{i}": x for kind, x in kinds.items() if x is not None}
    file = b.room / f"{model}.{what}.npz"
    with open(file.with_suffix(".part"), "wb") as f: np.savez(f, **found)
    file.with_suffix(".part").replace(file)
    tokens = sum(len(x) for name, x in found.items() if name.startswith("tokens."))
    return dict(tokens=tokens, watched="before.0" in found)


@step(40, beside="prepare")
def environment(b):
    "The card, its software, and what it can do at most."
    import numpy, torch
    def software():
        found = dict(torch=torch.__version__, cuda=torch.version.cuda, numpy=numpy.__version__)
        found |= dict(python=platform.python_version())
        found |= dict(processors=os.cpu_count(), threads=torch.get_num_threads())
        if not b.gpu: return found
        p = torch.cuda.get_device_properties(0)
        return found | dict(card=p.name, capability=f"{p.major}.{p.minor}", memory_mb=p.total_memory / MB,
                            multiprocessors=p.multi_processor_count, cudnn=torch.backends.cudnn.version())
    b.part("software", software)
    if b.gpu: b.part("smi", lambda: dict(zip(("driver", "sm_clock", "memory_clock", "memory_used"), smi())))
    b.part("copy", lambda: copies(b))
    for name in DTYPES: b.part(f"product, {name}", lambda: products(b, name))
    b.part("launch", lambda: launches(b))
    b.part("spectra", lambda: spectra(b))


def smi() -> list[str]: # as nvidia-smi writes them
    "What the driver says; nothing is changed."
    ask = "--query-gpu=driver_version,clocks.sm,clocks.mem,memory.used"
    command = ["nvidia-smi", ask, "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    if done.returncode: raise RuntimeError(f"nvidia-smi ended with {done.returncode}: {done.stderr[:200]}")
    return [x.strip() for x in done.stdout.splitlines()[0].split(",")]


def span_ms(b, do, n) -> float: # of one, in milliseconds
    "How long the device takes for one of `n` in a row, by its own clock."
    import torch
    do()
    b.sync()
    if not b.gpu:
        began = time.perf_counter()
        for _ in range(n): do()
        return 1e3 * (time.perf_counter() - began) / n
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(n): do()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / n


def copies(b) -> dict:
    "Bytes a second from the device's memory to itself, read and written; and what a small download takes."
    import torch
    n = b.size(2**30, 2**22)
    x, y = (torch.empty(n, dtype=torch.uint8, device=b.device).random_() for _ in range(2))
    ms = statistics.median(span_ms(b, lambda: y.copy_(x), 5) for _ in range(3))
    small = torch.zeros(64, device=b.device)
    def down(): return small.cpu()
    return dict(tb_per_s=2 * n / ms * 1e3 / 1e12, small_download_us=1e3 * b.clock(down, 20, 50)["ms"])


def products(b, name) -> dict:
    "Operations a second in a large product of random matrices."
    import torch
    n = b.size(8192, 256)
    if name in ("float32", "tf32"): torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    dtype = torch.float32 if name == "tf32" else getattr(torch, name)
    x, y = (torch.randn(n, n, device=b.device, dtype=dtype) for _ in range(2))
    ms = statistics.median(span_ms(b, lambda: x @ y, 4) for _ in range(3))
    exact = x[:256].double() @ y.double()
    error = ((x @ y)[:256].double() - exact).norm() / exact.norm()
    return dict(tflops=2 * n**3 / ms * 1e3 / 1e12, ms=ms, relative_error=error.item())


def launches(b) -> dict:
    "What it costs to start a kernel that has nothing to do, and to wait for one."
    import torch
    x, n = torch.zeros(8, device=b.device), b.size(4000, 200)
    def many():
        for _ in range(n): x.add_(1)
    launch = b.clock(many, 3, 3)
    waited = b.clock(lambda: x.add_(1), 50, 100)
    each = 1e3 / n
    return dict(launch_us=launch["ms"] * each, host_us=launch["host_ms"] * each, waited_us=1e3 * waited["ms"])


def spectra(b) -> dict: # transforms at once -> largest difference
    "Inverse transforms where the first and the last bin are not real, against the CPU's, which ignore that."
    import torch
    x = torch.randn(b.size(8192, 64), 513, dtype=torch.complex64)
    right = torch.fft.irfft(x)
    length_mask = x.clone()
    length_mask.imag[:, ::512] = 0
    def worst(x, n): return float((torch.fft.irfft(x[:n].to(b.device)).cpu() - right[:n]).abs().max())
    counts = [2**i for i in range(14) if 2**i <= len(x)]
    return dict(peak=float(right.abs().max()), as_they_are={str(n): worst(x, n) for n in counts},
                first_and_last_real={str(n): worst(length_mask, n) for n in counts})


PIECES = ("ten", "ragged", "twice", "together_or_alone", "long")  # the last two in float32 only


@step(40, pieces=True)
def correctness(b):
    "The device against the CPU: the same weights, the same recordings, every precision."
    sounds = recordings(b)
    asked = [(m, *precision) for precision, m in itertools.product(precisions(b), ("nano", "published"))]
    for wanted in (b.lacks, b.older) if b.known else (b.lacks,):  # what other code found is done again
        def pieces(model, dtype, encode):
            name = f"{model}, {named(dtype, encode)}"
            return [p for p in PIECES[:5 if dtype == "float32" else 3] if wanted(name, p)]
        for row in sorted(asked, key=lambda row: -len(pieces(*row))) if b.known else asked:
            if some := pieces(*row): comparing(b, *row, some, sounds)


def comparing(b, model, dtype, encode, pieces, sounds):
    "What a precision costs in accuracy, piece by piece."
    name, began = f"{model}, {named(dtype, encode)}", time.perf_counter()
    right, found = Reference(b, model), b.found.setdefault(name, {})
    pieces = [p for p in pieces if p != "long" or (b.room / f"{model}.long.npz").exists()]
    if b.left() < 3 or not pieces: return
    try: codec = load(b, model, dtype, encode)
    except Exception as e: found |= failure(e)
    else: found["codec"] = repr(codec).replace(weights(b, model), model)
    for piece in pieces if "codec" in found else ():
        if b.left() < 1: break
        found[piece] = attempted(lambda: compared(b, codec, right, piece, sounds))
        found["took_s"] = time.perf_counter() - began
        b.save()
    b.save()


def compared(b, codec, right, piece, sounds) -> dict:
    "One piece of it."
    if piece == "ragged": return many(codec, right, sounds["ragged"])
    if piece == "twice": return twice(codec, sounds)
    if piece == "together_or_alone": return together_or_alone(codec, sounds["ragged"])
    return one(b, codec, right, piece, sounds[piece][0])


def one(b, codec, reference, what, audio) -> dict:
    "A recording encoded alone, and the CPU's tokens decoded."
    more, encoded, (wave, mel) = in_segments(b, what), reference.encoded(what), reference.made(what)[0]
    tokens, voice, z = heard(codec, audio, **more)
    found = token_errors([(tokens, voice)], encoded)
    (tokens, voice, right), made = encoded[0], codec.decode(*encoded[0][:2], **more)
    found |= dict(mel=error_of(codec.mel(tokens, voice), mel), waveform=error_of(made, wave))
    return found | (dict(before_rounding=error_of(z, right)) if z is not None and right is not None else {})


def many(codec, reference, audios) -> dict:
    "Recordings of different lengths in one call."
    encoded, wanted = reference.encoded("ragged"), [wave for wave, _ in reference.made("ragged")]
    made = codec.decode([t for t, _, _ in encoded], [v for _, v, _ in encoded])
    waveform = worst_of([error_of(x, y) for x, y in zip(made, wanted)])
    return token_errors(codec.encode(audios, 24_000), encoded) | dict(waveform=waveform)


def worst_of(errors:list[dict]) -> dict:
    "The largest of each."
    if not errors: return {}
    if wrong := [e for e in errors if "shape" in e]: return wrong[0]
    return {k: (all if k == "finite" else max)(e[k] for e in errors) for k in errors[0]}


def together_or_alone(codec, audios) -> dict:
    "What one call makes of several recordings against what a call for each makes."
    together, alone = codec.encode(audios, 24_000), [heard(codec, a) for a in audios]
    made = codec.decode([t for t, _ in together], [v for _, v in together])
    waveform = worst_of([error_of(x, codec.decode(*pair)) for x, pair in zip(made, together)])
    return token_errors(together, alone) | dict(waveform=waveform)


def twice(codec, sounds) -> dict: # True: bit by bit the same
    "Is the same job served twice the same, alone and in a batch?"
    import numpy as np
    def same(x, y): return all(np.array_equal(as_array(a), as_array(c)) for a, c in zip(x, y))
    first, second = (codec.encode(sounds["ten"][0], 24_000) for _ in range(2))
    batch, again = (codec.encode(sounds["ragged"], 24_000) for _ in range(2))
    made = [[codec.decode(*first)] for _ in range(2)]
    in_batch = all(same(x, y) for x, y in zip(batch, again))
    return dict(encode=same(first, second), decode=same(*made), batch=in_batch)


@step(30, beside="correctness")
def device_assert(b):
    "A kernel that fails: what the process sees, what it makes of it, and whether anything works afterwards."
    import torch
    codec = load(b, "nano")
    audio = babble(1, 3)
    codec.encode(audio, 24_000)
    def planted():
        x, wrong = torch.zeros(4, device=b.device), torch.tensor([9], device=b.device)
        try:
            x[wrong].sum().item()
            return dict(raised=False)
        except Exception as e: return dict(raised=True) | judged(e)
    def afterwards(do):
        try:
            do()
            return dict(works=True)
        except Exception as e: return dict(works=False) | judged(e)
    b.part("planted", planted)
    b.part("codec_afterwards", lambda: afterwards(lambda: codec.encode(audio, 24_000)))
    b.part("new_tensor_afterwards", lambda: afterwards(lambda: torch.zeros(4, device=b.device).sum().item()))
    b.part("other_device_afterwards", lambda: afterwards(lambda: codec.to("cpu").encode(audio, 24_000)))
    b.part("freeing_afterwards", lambda: afterwards(b.free))


def judged(e) -> dict: # JSON
    "An error as it is seen, and what the package takes it for."
    from linacodec_tier3.codec.protocol import device_fault
    classes = [c.__name__ for c in type(e).__mro__[:-2]]
    return failure(e) | dict(classes=classes, device_fault=device_fault(e))


GRID = ((10, 1), (10, 16), (2, 1), (40, 1), (10, 4), (40, 16), (2, 16), (2, 4), (40, 4))  # seconds and items
TASKS = ("encode", "known", "decode")  # known: encode with the embedding given


def task(b, codec, what, seconds, items, on_device=False):
    "Something to do, again and again, with numpy arrays or with tensors that are on the device already."
    import numpy as np, torch
    rng = np.random.RandomState(items)
    def there(x): return torch.as_tensor(x, device=b.device) if on_device else x
    voice = there(rng.standard_normal(128).astype(np.float32))
    if what == "decode":
        codes = codec.network.core.local_quantizer.codes
        tokens = [there(rng.randint(0, codes, round(seconds * codec.frame_rate))) for _ in range(items)]
        return lambda: codec.decode(tokens, [voice] * items)
    noise = [.1 * rng.standard_normal(round(seconds * 24_000)) for _ in range(items)]
    audio = [there(x.astype(np.float32)) for x in noise]
    return lambda: codec.encode(audio, 24_000, voice if what == "known" else None)


def tasks(b):
    "What syncs, operators and kernels are counted of: name and something to do that has been done already."
    for model in ("published", "nano"):
        codec = load(b, model)
        for what, items in itertools.product(("encode", "decode"), (1, 16)):
            do = task(b, codec, what, b.size(10, 1), b.size(items, min(items, 2)))
            name = f"{model}, {what}, {items}"
            if "error" not in b.part(name, lambda: dict(first_ms=b.clock(do, 1, 1)["ms"])): yield name, do


@step(30, beside="correctness")
def syncs(b):
    "Where the host waits for the device, line by line, and how many operators are called."
    for name, do in tasks(b):
        if b.gpu: b.part(f"{name}, syncs", lambda: waits(do), 1)
        b.part(f"{name}, operators", lambda: operators(do), 1)


def waits(do) -> dict: # line -> how often
    "The package's lines that make the host wait."
    import torch
    seen = Counter()
    def show(message, category, filename, lineno, file=None, line=None):
        if "called a synchronizing" not in str(message): return
        frames = traceback.extract_stack()
        own = [f for f in frames if Path(f.filename).is_relative_to(PACKAGE)] or frames[-2:-1]
        seen[f"{Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].name}: {own[-1].line}"] += 1
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        torch.cuda.set_sync_debug_mode("warn")
        try: do()
        finally: torch.cuda.set_sync_debug_mode("default")
    return dict(total=sum(seen.values()), lines=dict(seen.most_common()))


def operators(do) -> dict: # name -> how often
    "What torch is asked to do."
    from torch.utils._python_dispatch import TorchDispatchMode
    seen = Counter()
    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen[str(func)] += 1
            return func(*args, **(kwargs or {}))
    with Counting(): do()
    return dict(total=sum(seen.values()), dearest=dict(seen.most_common(12)))


@step(35, beside="correctness")
def memory(b):
    "Memory after many lengths."
    for model, share in (("published", .6), ("nano", 1.)):
        ends = time.monotonic() + share * (b.left() - 2)
        b.part(model, lambda: lengths(b, model, b.size((5, 10, 20, 40, 80), (1, 2, 3)), ends), 3)
        b.free()


def lengths(b, model, counts, ends) -> dict:
    "Memory and plans for Fourier transforms after so many recordings of random lengths."
    import numpy as np
    codec, rng, began = load(b, model), np.random.RandomState(7), time.perf_counter()
    audio, rows = babble(b.size(20, 3), 4), []
    b.found[model] = found = dict(rows=rows)
    for i in range(1, max(counts) + 1):
        tokens, voice = codec.encode(audio[:rng.randint(12_000, len(audio))], 24_000)
        codec.decode(tokens, voice)
        late = time.monotonic() > ends
        if i not in counts and not late: continue
        rows.append(dict(recordings=i, seconds=time.perf_counter() - began) | (held(b) if b.gpu else {}))
        b.save()
        if late: break
    return found


def held(b) -> dict:
    "What torch has taken of the card, and how many plans cuFFT keeps."
    import torch
    b.sync()
    plans, (free, total) = torch.backends.cuda.cufft_plan_cache, torch.cuda.mem_get_info()
    own, kept = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    taken = dict(allocated_mb=own / MB, reserved_mb=kept / MB, card_mb=(total - free) / MB)
    return taken | dict(plans=plans.size, most_plans=plans.max_size)


@step(32)
def speed(b):
    "How long things take, in every precision, and how much memory."
    grid = b.size(GRID, ((1, 1), (1, 2)))
    b.part("first", lambda: firsts(b, "published"), 3)
    b.found["rows"] = []
    def measure(model, dtype, what, seconds, items, codec):
        row = dict(model=model, dtype=dtype, task=what, seconds=seconds, items=items)
        try:
            do = task(b, codec, what, seconds, items)
            with b.peak() as peak: row |= b.clock(do, within_s=.15)
            row |= dict(peak_mb=peak.mb, times_real_time=1e3 * seconds * items / row["ms"])
            if items > 1: return
            on = b.clock(task(b, codec, what, seconds, items, on_device=True), 3, 3)
            row |= dict(device_ms=on["ms"], device_host_ms=on["host_ms"])
        except Exception as e: row |= failure(e)
        finally:
            b.found["rows"].append(row)
            b.save()
    asked = [d for d, e in precisions(b) if e is None]
    for n, dtype in enumerate(asked):
        ends = time.monotonic() + (b.left() - b.size(6, 1)) / (len(asked) - n) # the same share for each
        try: codec = load(b, "published", dtype)
        except Exception as e:
            b.found["rows"].append(dict(model="published", dtype=dtype) | failure(e))
            continue
        for (seconds, items), what in itertools.product(grid, TASKS):
            if time.monotonic() < ends: measure("published", dtype, what, seconds, items, codec)
        del codec
        b.free()
    for dtype in ("float32", "float16", "bfloat16"):
        try: codec = load(b, "nano", dtype)
        except Exception as e:
            b.found["rows"].append(dict(model="nano", dtype=dtype) | failure(e))
            continue
        for (seconds, items), what in itertools.product(grid[:2], ("encode", "decode")):
            if b.left() > 1: measure("nano", dtype, what, seconds, items, codec)


def firsts(b, model) -> dict: # milliseconds
    "What the first calls cost, and a first call of a new length."
    def once(do):
        b.sync()
        began = time.perf_counter()
        got = do()
        b.sync()
        return 1e3 * (time.perf_counter() - began), got
    found = {}
    found["load_ms"], codec = once(lambda: load(b, model))
    for what in ("encode", "decode"):
        for name, seconds in (("first", 10), ("second", 10), ("new_length", 7.3), ("new_length_again", 7.3)):
            found[f"{what}_{name}_ms"], _ = once(task(b, codec, what, b.size(seconds, seconds / 10), 1))
    return found


def kernels(b, do, most=20) -> dict: # microseconds
    "What the device worked on, and for how long it worked at all."
    import torch
    from torch.profiler import ProfilerActivity, profile
    do()
    with profile(activities=[ProfilerActivity.CUDA if b.gpu else ProfilerActivity.CPU]) as p:
        began = time.perf_counter()
        do()
        b.sync()
        wall = 1e6 * (time.perf_counter() - began)
    kind = torch.autograd.DeviceType.CUDA if b.gpu else torch.autograd.DeviceType.CPU
    took, count, first, last = Counter(), Counter(), math.inf, -math.inf
    for e in p.events():
        if e.device_type != kind or "Activity Buffer" in e.name: continue
        us = e.time_range.elapsed_us() if b.gpu else e.self_cpu_time_total
        took[e.name[:120]] += us
        count[e.name[:120]] += 1
        first, last = min(first, e.time_range.start), max(last, e.time_range.end)
    rows = [dict(kernel=name, count=count[name], us=us) for name, us in took.most_common(most)]
    return dict(count=sum(count.values()), kinds=len(count), busy_us=sum(took.values()), span_us=last - first,
                wall_us=wall, dearest=rows)


@step(24)
def kernels_and_threads(b):
    "What the device does all the time, and how much several threads get done on one codec."
    for name, do in tasks(b): b.part(f"{name}, kernels", lambda: kernels(b, do), 1)
    b.part("threads", lambda: threads(b, load(b)), 4)


def threads(b, codec, each=6) -> dict:
    "The same work from 1, 4 and 8 threads: is what they get the same, and how much do they get done?"
    import numpy as np
    audios = [babble(b.size(10, 1), i) for i in range(each)]
    def all_of(audios):
        made = [codec.encode(a, 24_000) for a in audios]
        return [(*pair, codec.decode(*pair)) for pair in made]
    wanted = all_of(audios)
    found = {}
    for n in (1, 4, 8):
        got, problems = {}, []
        def run(i):
            try: got[i] = all_of(audios)
            except Exception as e: problems.append(failure(e))
        b.sync()
        began = time.perf_counter()
        workers = [threading.Thread(target=run, args=(i,)) for i in range(n)]
        for w in workers: w.start()
        for w in workers: w.join()
        b.sync()
        took = time.perf_counter() - began
        pairs = [(x, y) for r in got.values() for x, y in zip(r, wanted)]
        same = [all(np.array_equal(as_array(p), as_array(q)) for p, q in zip(x, y)) for x, y in pairs]
        tokens = [np.array_equal(as_array(x[0]), as_array(y[0])) for x, y in pairs]
        waves = worst_of([error_of(x[2], y[2]) for x, y in pairs])
        found[str(n)] = dict(items_per_s=n * each / took, same_bits=sum(same), same_tokens=sum(tokens))
        found[str(n)] |= dict(of=n * each, waveform=waves, problems=problems[:2])
    return found


@step(28)
def out_of_memory(b):
    "A full card: what its errors look like, and down every rung of the ladder."
    if b.gpu: b.part("errors", lambda: full_card(b), 2)
    b.part("ladder", lambda: ladder(b), 6)


def fill(leave_mb:float=0.) -> list: # tensors that hold the memory
    "Take nearly all of the card's memory."
    import torch
    held, least = [], 2 * MB
    torch.cuda.empty_cache()
    while (n := torch.cuda.mem_get_info()[0] - int(leave_mb * MB)) > least:
        n = min(n, 2**34)
        while n > least:
            try: held.append(torch.empty(n, dtype=torch.uint8, device="cuda"))
            except torch.OutOfMemoryError: n //= 2
            else: break
        else: break
    return held


def full_card(b) -> dict: # what is tried -> the error
    "Libraries that are used for the first time when nothing is left."
    import torch
    import torch.nn.functional as F
    x, kernel = torch.randn(64, 8, 512, device=b.device), torch.randn(8, 8, 5, device=b.device)
    tries = dict(tensor=lambda: torch.empty(256 * MB, dtype=torch.uint8, device=b.device),
                 product=lambda: x[0] @ x[0].mT, convolution=lambda: F.conv1d(x, kernel),
                 transform=lambda: torch.fft.rfft(x[:, :, :509]), sort=lambda: x.flatten().sort(),
                 attention=lambda: F.scaled_dot_product_attention(x, x, x))
    found = {}
    def attempt(name):
        try:
            tries[name]()
            b.sync()
            return dict(works=True)
        except Exception as e: return dict(works=False) | judged(e)
    held = fill()
    free = torch.cuda.mem_get_info()[0] / MB
    for name in tries: found[name] = attempt(name)
    del held
    b.free()
    return dict(left_mb=free, full=found, afterwards={name: attempt(name).get("works") for name in tries})


def ladder(b) -> dict:
    "With ever less memory left: which steps were taken, and is the result still right?"
    from linacodec_tier3.background import SEGMENTS_S
    work = Work(b, load(b), b.size(40, 25), b.size(16, 4))
    work.do(work.codec, work.given[:1], None)
    batch_mb, _ = work.need(work.given)
    one_mb, alone = work.need(work.given[:1])
    segments_mb, _ = work.need(work.given[:1], SEGMENTS_S[-1])
    needs = dict(batch_mb=batch_mb, one_mb=one_mb, segments_mb=segments_mb)
    needs |= dict(items=len(work.given), seconds=work.seconds)
    b.found["ladder"] = found = dict(needs=needs, rungs={})
    rungs = dict(batch=((one_mb + batch_mb) / 2, 2, math.inf),
                 segments=((segments_mb + one_mb) / 2, 1, SEGMENTS_S[-1]), processor=(0., 0, 0))
    for name, (leave_mb, items, segment_s) in rungs.items():
        if b.left() < 4: break
        found["rungs"][name] = work.squeezed(leave_mb, items, segment_s)
        b.save()
    return found | dict(afterwards=against(work.do(work.codec, work.given[:1], None), alone))


class Work:
    "Recordings to be encoded and decoded, with as much memory as there is."
    def __init__(self, b, codec, seconds, items):
        self.b, self.codec, self.seconds = b, codec, float(seconds)
        sounds = [babble(seconds, i + 30) for i in range(items)]
        self.given = [SimpleNamespace(number=i, seconds=self.seconds, audio=a) for i, a in enumerate(sounds)]
        self.items, self.segment_s = math.inf, math.inf  # most that fit, where no card can be filled

    def do(self, codec, some, segment_s) -> list: # tokens, embedding and waveform of each
        "What a ladder runs."
        import torch
        too_much = len(some) > self.items or (segment_s or self.seconds) > self.segment_s
        if too_much and not self.b.gpu: raise torch.OutOfMemoryError("planted")
        less = dict(segment_s=segment_s) if segment_s else {}
        pairs = codec.encode([s.audio for s in some], 24_000, **less)
        waves = codec.decode([t for t, _ in pairs], [v for _, v in pairs], **less)
        return [(t, v, w) for (t, v), w in zip(pairs, waves)]

    def need(self, some, segment_s=None) -> tuple[float, list]: # MB beyond what is taken, and the results
        "How much memory it takes."
        with self.b.peak() as peak: got = self.do(self.codec, some, segment_s)
        return peak.mb or 0., got

    def squeezed(self, leave_mb, items, segment_s) -> dict:
        "Down the ladder with so much left, and the same again with everything."
        from linacodec_tier3.background import Ladder
        steps, began = [], time.perf_counter()
        def note(item, step, error): steps.append(dict(step=step, error=failure(error)["error"][:200]))
        self.items, self.segment_s = items, segment_s
        self.b.free()
        held = fill(leave_mb) if self.b.gpu else None
        row, down = dict(leave_mb=leave_mb, steps=steps), Ladder(self.codec, note)
        try: got = down.run(self.do, self.given)
        except Exception as e: row, got = row | judged(e), []
        row |= dict(served=len(got), device=str(down.codec.device), segment_s=down.segment_s)
        row["seconds"] = time.perf_counter() - began
        del held
        self.b.free()
        self.items = self.segment_s = math.inf
        return row | (against(got, self.do(self.codec, self.given[:len(got)], down.segment_s)) if got else {})


def against(got:list, wanted:list) -> dict: # tokens, and waveforms of those with the same tokens
    "Tokens, embeddings and waveforms made of the same in another way."
    import numpy as np
    same = [(x, y) for x, y in zip(got, wanted) if np.array_equal(as_array(x[0]), as_array(y[0]))]
    tokens = token_errors([x[:2] for x in got], [(*y[:2], None) for y in wanted])
    waves = worst_of([error_of(x[2], y[2]) for x, y in same])
    return dict(tokens=tokens, same_tokens=len(same), waveform=waves)


@step(40, least_s=20)
def worker(b):
    "The worker behind RunPod's API on loopback: what a client waits for. Two start at once and work in turn."
    from linacodec_tier3.local.endpoint import LocalEndpoint
    common = dict(DEVICE=b.device, DEFAULT_SERVICE="tone", CONCURRENCY="16", RUNPOD_SKIP_GPU_CHECK="true")
    published = dict(CODEC="published", LINACODEC_WEIGHTS=str(b.room / "published"))
    def endpoint(env): return LocalEndpoint(env=common | env, start_timeout=max(5., b.left() - 6), grace=1)
    endpoints = dict(nano=endpoint(dict(CODEC="nano")), published=endpoint(published))
    def start(model):
        b.part(f"{model}, start", lambda: dict(worker=bool(endpoints[model].start())))
    starting = [threading.Thread(target=start, args=(m,)) for m in endpoints]
    for t in starting: t.start()
    for t in starting: t.join()
    for model in endpoints: b.part(model, lambda: served(b, model, endpoints[model]), 3)
    for e in endpoints.values(): e.stop()


TEXT = ("The letter came on a Tuesday, in the rain, and nobody opened it. It lay on the table in the hall, "
        "under a glove and the evening paper, until the lamps were lit. Then somebody laughed upstairs, a "
        "door fell shut, and the house was quiet again. In the morning it was gone. Nobody had taken it, "
        "nobody had read it, and nobody could say who had sent it, or why. ")


def served(b, model, endpoint) -> dict:
    "One job, another, and sixteen at once. The engine, a plain note, costs nothing, so this is the codec."
    from linacodec_tier3.client import Client
    from linacodec_tier3.contract import FINAL_STATES
    text, many, found, client = TEXT * b.size(2, 1), b.size(16, 4), {}, Client(endpoint.endpoint_url)
    def jobs(n, format):
        ids = [client.submit(text, stream=True, output_format=format, seed=1) for _ in range(n)]
        ends = time.monotonic() + max(3., min(20., b.left() - 2))
        def running(): return any(endpoint.job(i).status not in FINAL_STATES for i in ids)
        while time.monotonic() < ends and running(): time.sleep(.01)
        return about([endpoint.job(i) for i in ids])
    formats = dict(linacodec_tokens="tokens", pcm_16="PCM")
    times = ((1, "first"), (1, "second"), (many, "many"))
    for (format, name), (n, label) in itertools.product(formats.items(), times):
        if b.left() < 3: break
        found[f"{name}, {label}"] = jobs(n, format)
        b.found[model] = found
        b.save()
    lines = endpoint.logs()
    found |= dict(chunks=chunk_times(lines), health=client_health(client))
    return found | dict(log=[line[:200] for line in lines[:6]])


def about(jobs) -> dict: # seconds
    "What clients saw of some jobs that ran at once."
    ended = [j.output[-1] if isinstance(j.output, list) and j.output else j.output for j in jobs]
    last = [m if isinstance(m, dict) else {} for m in ended]
    audio = sum(m["elapsed_time_seconds"] / m["real_time_factor"] for m in last if m.get("real_time_factor"))
    firsts = sorted(j.first_partial - j.created for j in jobs if j.first_partial)
    done = [j.done for j in jobs if j.done]
    took = max(done) - min(j.created for j in jobs) if done else None
    errors = [j.error for j in jobs] + [m.get("error") for m in last]
    found = dict(jobs=len(jobs), states=dict(Counter(j.status for j in jobs)), took_s=took, audio_s=audio)
    found |= dict(real_time_factor=took / audio if took and audio else None, timing=last[0].get("timing"))
    found |= dict(recovered=sum(len(m.get("manifest", {}).get("recovered", ())) for m in last))
    if firsts: found |= dict(first_partial_s=statistics.median(firsts), last_first_partial_s=firsts[-1])
    return found | dict(problems=sorted({" ".join(str(e).split())[:200] for e in errors if e}))


def chunk_times(lines) -> dict: # milliseconds
    "What the worker's log says of its chunks."
    read = json.JSONDecoder().raw_decode
    events = [read(line[line.index("{"):])[0] for line in lines if '{"event": "chunk_encoded"' in line]
    if not events: return dict(n=0, last=[line[:160] for line in lines[-5:]])
    times, peaks = [e["latency_ms"] for e in events], [e.get("gpu_memory_peak_mb", 0) for e in events]
    return dict(n=len(times), median_ms=statistics.median(times), most_ms=max(times), peak_mb=max(peaks),
                audio_s=sum(e["audio_seconds"] for e in events))


def client_health(client) -> dict:
    "What the worker says of its codec."
    job = client.call("POST", "run", {"input": {"action": "health"}})["id"]
    for _ in range(300):
        state = client.status(job)
        if state.get("status") in ("COMPLETED", "FAILED"): break
        time.sleep(.01)
    found = state.get("output")
    found = found[-1] if isinstance(found, list) and found else found
    health = (found or {}).get("health", {})
    codec = {k: v for k, v in health.get("codec", {}).items() if k not in ("weights", "name")}
    return dict(codec=codec, device=health.get("device"))


@step(20, least_s=12)
def graphs(b):
    "Whether replaying a decode of one length from a CUDA graph is worth it."
    import torch
    with torch.inference_mode():
        parts = decode_parts(b, load(b), b.size(10, 1))
        for name, do in parts.items(): b.part(f"{name}, as it is", lambda: b.clock(do, 5, 20), 1)
        if not b.gpu: return
        for name, do in parts.items(): b.part(f"{name}, captured", lambda: captured(b, do), 1)


@step(60, least_s=25)
def compiling(b):
    "Whether `torch.compile` is worth it."
    import torch
    codec = load(b)
    with torch.inference_mode():
        do = decode_parts(b, codec, b.size(10, 1))["vocoder"]
        b.part("vocoder, as it is", lambda: b.clock(do, 5, 20))
        if b.gpu: b.part("vocoder, compiled", lambda: compiled(b, codec.network, do))


def decode_parts(b, codec, seconds) -> dict: # name -> function without arguments
    "Decoding, and its two halves, with what they need on the device already."
    import torch
    from linacodec_tier3.codec import linacodec
    net, n = codec.network, round(seconds * codec.frame_rate)
    tokens = torch.arange(n, device=b.device) * 37 % net.core.local_quantizer.codes
    voice = torch.linspace(-1, 1, 128, device=b.device)
    mel, frames = linacodec.mel_of([tokens], voice[None], net)
    mel = mel.to(net.vocoder_dtype)
    return dict(mel=lambda: linacodec.mel_of([tokens], voice[None], net),
                vocoder=lambda: net.vocoder(mel, frames), decode=lambda: codec.decode(tokens, voice))


def captured(b, do) -> dict: # milliseconds of a replay
    "The same as a CUDA graph."
    import torch
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2): do()
    torch.cuda.current_stream().wait_stream(side)
    b.sync()
    graph, before = torch.cuda.CUDAGraph(), torch.cuda.memory_allocated()
    with torch.cuda.graph(graph): do()
    return b.clock(graph.replay, 5, 20) | dict(mb=(torch.cuda.memory_allocated() - before) / MB)


def compiled(b, net, do) -> dict:
    "The vocoder's trunk through `torch.compile`: what it costs to compile, and what a call takes then."
    import torch
    trunk = net.vocoder.backbone
    began = time.perf_counter()
    try:
        net.vocoder.backbone = torch.compile(trunk)
        do()
        b.sync()
        return dict(compile_s=time.perf_counter() - began) | b.clock(do, 5, 20)
    finally: net.vocoder.backbone = trunk


# ---- running them


def unpacked(
    pack:Path|None, # folder of wheels
    room:Path, # where to unpack
) -> list[str]: # what to put on Python's path
    "The package, and what it needs besides torch and numpy."
    if pack is None: return [str(ROOT)]
    wheels = sorted(pack.glob("*.whl"))
    if not wheels: sys.exit(f"--pack {pack}: no wheels there; `make gpu-pack` fetches them")
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as z: z.extractall(room / "pack")
    return [str(ROOT), str(room / "pack")]


def tail(log:Path, lines:int=8) -> list[str]:
    "The end of what a process wrote."
    try: return [line[:300] for line in log.read_text(errors="replace").splitlines()[-lines:]]
    except OSError: return []


class Run:
    "All steps, and the file that says what they found."
    def __init__(self, args, room):
        self.args, self.room, self.until = args, room, time.monotonic() + args.limit
        self.began, self.processes, self.now, self.out = time.monotonic(), {}, set(), Path(args.out)
        self.out.mkdir(parents=True, exist_ok=True)
        sources = sorted(PACKAGE.rglob("*.py"))
        code = hashlib.sha256(b"".join(p.read_bytes() for p in sources)).hexdigest()[:12]
        self.report = dict(device=args.device, rehearsal=args.rehearse, limit_s=args.limit, code=code)
        self.report |= dict(when=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), seconds=0.)
        self.report |= dict(steps={}, found={}, runs=[])
        self.known = taken_over(args, self.report)
        run = {k: self.report[k] for k in ("when", "code", "limit_s", "seconds")}
        self.report["runs"].append(run | dict(card=card() if args.device == "cuda" else "cpu"))
        same = [i for i, run in enumerate(self.report["runs"][:-1]) if run["code"] == code]
        write_json(room / "known.json", dict(found=self.known.get("found", {}), same_code=same))
        path = [*unpacked(args.pack and Path(args.pack), room), *filter(None, [os.environ.get("PYTHONPATH")])]
        drop = ("LINACODEC_", "CODEC", "DEVICE", "RUNPOD_")
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(drop)}
        if args.device == "cpu": self.env.setdefault("OMP_NUM_THREADS", "1")  # others work here too
        self.env |= dict(PYTHONPATH=os.pathsep.join(path), CODEC_HOME=str(room / "home"))
        self.env |= dict(HF_HUB_OFFLINE="1", PYTHONUNBUFFERED="1")

    def save(self):
        "Take over what the steps have handed in, and write everything down."
        for name in self.report["steps"]:
            file = self.room / f"{name}.json"
            if name not in self.now or not file.exists(): continue
            new, n = json.loads(file.read_text(encoding="utf-8")), len(self.report["runs"]) - 1
            old = deep(self.known, "found", name) or {}
            self.report["found"][name] = joined(old, marked(new, n, STEPS[name].pieces), STEPS[name].pieces)
        self.report["seconds"] = self.report["runs"][-1]["seconds"] = time.monotonic() - self.began
        write_json(self.out / "gpu.json", self.report)

    def start(self, s:Step, later_s:float):
        "Start a step, or say why not; the steps after it would like to have `later_s` at least."
        left = self.until - time.monotonic()
        if left < s.least_s:
            why = f"{max(left, 0):.0f} s left of {self.args.limit:g}"
            self.report["steps"].setdefault(s.name, dict(status="skipped", why=why))
            return
        self.now.add(s.name)
        longer = 3 if self.args.rehearse else min(2, max(1, self.args.limit / 150))  # made for 150 s
        allowed = min(s.most_s * longer, max(s.least_s, left - later_s, left / 2))
        log = self.room / f"{s.name}.log"
        command = [sys.executable, str(Path(sys.argv[0]).resolve()), "--step", s.name]
        command += ["--device", self.args.device, "--room", str(self.room)]
        command += ["--until", str(time.monotonic() + allowed)]
        if self.args.rehearse: command.append("--rehearse")
        with open(log, "wb") as f:
            p = subprocess.Popen(command, cwd=ROOT, env=self.env, stdin=subprocess.DEVNULL, stdout=f,
                                 stderr=f, start_new_session=True)
        self.processes[s.name] = (p, time.monotonic(), time.monotonic() + allowed + 1, log)
        run = len(self.report["runs"]) - 1
        self.report["steps"][s.name] = dict(status="running", limit_s=allowed, run=run)

    def look(self, name):
        "Has a step ended, or must it?"
        p, began, ends, log = self.processes[name]
        entry = self.report["steps"][name]
        if p.poll() is None and time.monotonic() < ends: return
        if p.poll() is None:
            kill(p)
            entry |= dict(status="killed", why=f"not done within {ends - began:.0f} s", log=tail(log))
        elif p.returncode: entry |= dict(status="died", why=f"exit status {p.returncode}", log=tail(log))
        else: entry |= dict(status="done")
        entry["seconds"] = time.monotonic() - began
        del self.processes[name]

    def group(self, steps:list[Step], later_s:float):
        "Steps that run at the same time."
        for s in steps: self.start(s, later_s)
        shown = 0.
        while True:
            for name in list(self.processes): self.look(name)
            if time.monotonic() - shown > 1 or not self.processes:
                self.save()
                shown = time.monotonic()
            if not self.processes: break
            time.sleep(.05)
        for s in steps:
            e = self.report["steps"][s.name]
            print(f"{self.report['seconds']:6.1f} s  {s.name}: {e['status']} {e.get('why', '')}", flush=True)

    def close(self):
        "End what still runs, and say so."
        for name, (p, began, _, log) in self.processes.items():
            kill(p)
            end = dict(status="killed", why="the run was ended", log=tail(log))
            self.report["steps"][name] |= end | dict(seconds=time.monotonic() - began)
        self.save()


def card() -> str|None:
    "The card's name, as the driver has it."
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try: done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError): return None
    return done.stdout.strip().split("\n")[0] or None


def taken_over(args, report:dict) -> dict: # the earlier report, {} without one
    "Put what an earlier run found into a report."
    if not args.known: return {}
    known = json.loads(Path(args.known).read_text(encoding="utf-8"))
    if known["rehearsal"] and not args.rehearse:
        sys.exit(f"--known {args.known}: that was a rehearsal, which measures nothing")
    if "runs" not in known:  # it was the only one
        run = {k: known[k] for k in ("when", "code", "limit_s", "seconds")}
        known["runs"] = [run | dict(card=deep(known, "found", "environment", "software", "card"))]
        known["found"] = {k: marked(v, 0, STEPS[k].pieces) for k, v in known["found"].items()}
        for entry in known["steps"].values(): entry["run"] = 0
    for k in ("runs", "found", "steps"): report[k] = json.loads(json.dumps(known[k]))
    return known


def marked(found:dict, run:int, pieces:bool) -> dict: # the same
    "Say of each finding of a step, or of each of its pieces, which run it is from."
    for x in found.values():
        if isinstance(x, dict): x["run"] = run
        some = x if isinstance(x, list) else x.values() if pieces and isinstance(x, dict) else ()
        for y in some:
            if isinstance(y, dict): y["run"] = run
    return found


def joined(old:dict, new:dict, pieces:bool) -> dict:
    "An earlier run's findings of a step, and what is new instead of some of them."
    whole = {k: v for k, v in new.items() if v or k not in old}
    both = {k: old[k] | v for k, v in whole.items() if pieces and isinstance(old.get(k), dict)}
    found = old | whole | both
    skipped = [k for k in found.pop("skipped", ()) if k not in found]
    return found | (dict(skipped=skipped) if skipped else {})


def kill(p:subprocess.Popen):
    "End a process and what it started."
    try: os.killpg(p.pid, signal.SIGKILL)
    except ProcessLookupError: pass
    p.wait()


def groups(names:list[str]) -> list[list[Step]]:
    "Steps in order, those together that run at the same time."
    found = []
    for s in (STEPS[n] for n in names):
        if found and found[-1][0].beside == s.beside: found[-1].append(s)
        else: found.append([s])
    return found


def summary(report:dict) -> list[str]: # lines
    "The most telling numbers."
    found = report["found"]
    def get(*path): return deep(found, *path)
    def each(*path): return [(k, v) for k, v in (get(*path) or {}).items() if isinstance(v, dict)]
    card, torch = (get("environment", "software", k) for k in ("card", "torch"))
    lines = [f"{card or report['device']}, torch {torch}, "
             f"copy {shown(get('environment', 'copy', 'tb_per_s'))} TB/s, "
             f"launch {shown(get('environment', 'launch', 'launch_us'))} us; TFLOP/s: "
             + ", ".join(f"{d} {shown(get('environment', f'product, {d}', 'tflops'))}" for d in DTYPES)]
    for name, part in each("correctness"):
        for what, x in ((w, part[w]) for w in ("ten", "ragged", "long", "together_or_alone") if w in part):
            tokens = f"{x.get('differing')} of {x.get('tokens')} tokens differ, {x.get('away')} off edges"
            wave = f"waveform {shown(deep(x, 'waveform', 'of_peak'))} of peak"
            rest = f"{tokens}; embedding {shown(x.get('embedding'))}; {wave}"
            lines.append(f"{name}, {what}: {x['error'] if 'error' in x else rest}")
        if "error" in part: lines.append(f"{name}: {part['error']}")
    for row in get("speed", "rows") or []:
        if row.get("seconds") == 10 and row["items"] in (1, 16) and "ms" in row:
            what = f"{row['model']}, {row['dtype']}, {row['task']}, {row['items']} x 10 s"
            lines.append(f"{what}: {shown(row['ms'])} ms, {shown(row['times_real_time'])} x real time, "
                         f"{shown(row['peak_mb'])} MB")
    for name, part in each("syncs"):
        if name.endswith("syncs"): lines.append(f"{name}: {part.get('total')}")
    for name, part in each("kernels_and_threads"):
        if name.endswith("kernels"):
            times = f"busy {shown(part.get('busy_us'))} of {shown(part.get('wall_us'))} us"
            lines.append(f"{name}: {part.get('count')}, {times}")
    for name, row in each("out_of_memory", "ladder", "rungs"):
        steps = ", ".join(s["step"] for s in row["steps"]) or "nothing"
        lines.append(f"memory, {name}: served {row.get('served')} after {steps} {row.get('error', '')}")
    for model, part in each("worker"):
        for label, x in ((k, v) for k, v in part.items() if isinstance(v, dict) and "jobs" in v):
            lines.append(f"worker, {model}, {label}: first partial {shown(x.get('first_partial_s'))} s, "
                         f"real-time factor {shown(x['real_time_factor'])}, {x['states']}")
    for name, x in each("device_assert"):
        fault = f"device_fault {x.get('device_fault')!r}"
        if "error" in x: lines.append(f"assert, {name}: {fault}, {x['error'][:80]}")
    for name, x in each("graphs") + each("compiling"):
        lines.append(f"{name}: {shown(x['ms']) + ' ms' if 'ms' in x else x.get('error')}")
    wrong = [(s, e) for s, e in report["steps"].items() if e["status"] != "done"]
    return [line[:200] for line in lines + [f"{s}: {e['status']}, {e.get('why')}" for s, e in wrong]]


def deep(x, *path):
    "What lies at a path, or None."
    for p in path: x = x.get(p) if isinstance(x, dict) else None
    return x


def shown(x) -> str: return f"{x:.3g}" if isinstance(x, (int, float)) else "-" # three digits


def watch_parent():
    "End with the process that started this one."
    parent = os.getppid()
    def watch():
        while os.getppid() == parent: time.sleep(.5)
        os.killpg(os.getpid(), signal.SIGKILL)
    threading.Thread(target=watch, daemon=True).start()


def child(args):
    "One step, in this process."
    watch_parent()
    b = Bench(args.device, args.rehearse, args.room, Path(args.room) / f"{args.step}.json", args.until)
    b.save()
    try: STEPS[args.step].work(b)
    except Exception as e: b.found["error"] = failure(e)
    b.save()
    os._exit(0)  # a broken device must not keep the process from ending well


def main(argv=None):
    "Measure all steps, or those that the command line names."
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--out", default="out/gpu", help="folder for gpu.json")
    parser.add_argument("--pack", help="folder of wheels with what this Python lacks")
    parser.add_argument("--limit", type=float, default=150., help="seconds for everything")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="what to measure")
    parser.add_argument("--rehearse", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--known", help="an earlier gpu.json, kept where nothing newer is found")
    parser.add_argument("--steps", help=f"some, with commas, in order: {', '.join(STEPS)}")
    for name, kind in (("step", str), ("room", str), ("until", float)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.step: return child(args)
    names = args.steps.split(",") if args.steps else list(STEPS)
    unknown = [n for n in names if n not in STEPS]
    if unknown: sys.exit(f"--steps {', '.join(unknown)}: known are {', '.join(STEPS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as room:
        run = Run(args, Path(room))
        try:
            todo = groups(names)
            least = [max(s.least_s for s in steps) for steps in todo]
            for i, steps in enumerate(todo): run.group(steps, sum(least[i + 1:]))
        finally: run.close()
    print("\n".join(summary(run.report)), flush=True)


if __name__ == "__main__": main()
