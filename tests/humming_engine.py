"A whole engine as another package would bring it: it hums a text at the pitch of a recording."
import numpy as np

from linacodec_tier3.tts import Option


class Humming:
    "Copies a voice's pitch, says how long it may hum, and ends when nobody listens any more."
    name, rate, speeds, copies_voices = "humming", 16_000, (0.5, 2.0), True
    languages, limit, licence, weights_licence = ("en",), 300, "MIT", "CC0-1.0"
    options = (Option("vibrato", float, 0.0, "depth in semitones", 0, 2),)

    @staticmethod
    def voices(): return {"bee": "220 Hz"}

    def prepare(self, recording): # once for each recording; `recording.transcript` is what is said in it
        sound = recording.sound(self.rate, most_s=10)
        return np.abs(np.fft.rfft(sound)).argmax() * self.rate / len(sound)

    def synthesise(self, chunk, voice, seed, speed, options, should_stop, longest_s):
        hz = 220.0 if voice == "bee" else voice
        words, said = chunk.split(), []
        for word in words:
            if should_stop(): break
            n = int(0.07 * sum(map(str.isalnum, word)) / speed * self.rate)
            t = np.arange(n) / self.rate
            wave = np.sin(2 * np.pi * hz * t + seed + options["vibrato"] * np.sin(31 * t))
            said.append(0.3 * wave * np.hanning(n))
        return np.concatenate([np.zeros(0), *said])[:int(longest_s * self.rate)]
