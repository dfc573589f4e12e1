"An engine as another package would bring it: it logs every call, and goes wrong where it reads \"trouble\"."
import asyncio, sys, time

import numpy as np

from linacodec_tier3.background import log_event
from linacodec_tier3.codec.choice import load_linacodec
from linacodec_tier3.tts import Option

ASSERT = """CUDA error: device-side assert triggered
CUDA kernel errors might be asynchronously reported at some other API call, \
so the stacktrace below might be incorrect.
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."""  # as torch says it


def _raise(message="the weights are gone:\n  look under \udcff"): raise RuntimeError(message)


def _throw(error): raise error


def _spoil(note): # from now on the codec of this process answers as on a GPU that is lost
    load_linacodec().encode = lambda *_, **__: _raise(ASSERT)
    return note


TROUBLES = {
    "none": lambda note: note,
    "raises": lambda note: _raise(),
    "exits": lambda note: sys.exit(1),
    "interrupts": lambda note: _throw(KeyboardInterrupt()),
    "cancels": lambda note: _throw(asyncio.CancelledError()),
    "hangs": lambda note: time.sleep(3600),
    "nan": lambda note: note * np.nan,
    "int16": lambda note: np.int16(note * 32767),
    "silence": lambda note: note * 0,
    "stereo": lambda note: np.stack([note, note]),
    "nothing": lambda note: None,
    "GPU lost": lambda note: _raise(ASSERT),
    "codec's GPU lost": _spoil,
}


class Witness:
    "A note of half a second for each chunk."
    name, rate, speeds, copies_voices = "witness", 16_000, (0.5, 2.0), True
    options = (Option("work_s", float, 0.0, "seconds of work for a chunk", 0, 60),
               Option("steps", int, 4, "of nothing", 1, 8),
               Option("bright", bool, False, "an octave up"),
               Option("trouble", str, "none", "what goes wrong", choices=tuple(TROUBLES)))

    def __init__(self): log_event("engine_loaded")

    @staticmethod
    def voices(): return {"plain": "a steady note"}

    def synthesise(self, chunk, voice, seed, speed, options):
        log_event("engine_called")
        time.sleep(options["work_s"])
        pitch, t = (220 + seed % 220) * (1 + options["bright"]), np.arange(self.rate // 2) / self.rate
        note = 0.3 * np.cos(2 * np.pi * pitch * t)
        return TROUBLES[options["trouble"] if "trouble" in chunk else "none"](note)
