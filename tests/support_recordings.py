"Recordings for tests: in real formats, and odd ones."
import io, struct, zlib

import av
import numpy as np
import soundfile

RATE = 48_000
MADE = {  # name -> FFmpeg's container and encoder
    "wav": ("wav", "pcm_s16le"), "flac": ("flac", "flac"), "mp3": ("mp3", "libmp3lame"),
    "opus": ("ogg", "libopus"), "m4a": ("ipod", "aac"), "webm": ("webm", "libopus"), "mp4": ("mp4", "aac"),
    "caf": ("caf", "alac"), "aac": ("adts", "aac"), "mka": ("matroska", "flac")}


def note(hz=440, seconds=2.0, level=0.3, rate=RATE):
    return np.float32(level * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate))


def pitch(sound, rate):
    return np.abs(np.fft.rfft(sound * np.hanning(len(sound)))).argmax() * rate / len(sound)


def encoded(audio, name, rate=RATE, also=(), metadata=()):
    "A file of a kind of `MADE`; `also`: bytes of pictures, each a stream of its own before the sound."
    out, fifo = io.BytesIO(), av.AudioFifo()
    container, codec = MADE[name]
    with av.open(out, "w", format=container) as f:
        f.metadata.update(dict(metadata))
        pictures = [f.add_stream("png", rate=1) for _ in also]
        for s in pictures: s.width, s.height, s.pix_fmt = 16, 16, "rgb24"
        s = f.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.float32(audio)[None], format="flt", layout="mono")
        frame.sample_rate = rate
        for part in av.AudioResampler(s.codec_context.format, "mono", rate).resample(frame): fifo.write(part)
        f.start_encoding()
        for stream, data in zip(pictures, also):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, 0, 0, True
            f.mux(packet)
        for part in [*fifo.read_many(s.codec_context.frame_size or 1024, partial=True), None]:
            f.mux(s.encode(part))
    return out.getvalue()


def as_wav(audio, rate=RATE, subtype="FLOAT"):
    out = io.BytesIO()
    soundfile.write(out, audio, rate, subtype, format="WAV")
    return out.getvalue()


def huge_png(side):
    "A black picture of `side` times `side` pixels, in a few kilobytes for each thousand of them."
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    packer, row = zlib.compressobj(9), bytes(1 + 3 * side)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def silent_hours(hours):
    "Opus in webm, each packet 120 ms of silence in fourteen bytes."
    out = io.BytesIO()
    with av.open(out, "w", format="webm") as f:
        s = f.add_stream("libopus", rate=RATE, layout="stereo")
        f.start_encoding()
        for i in range(int(hours * 3600 / 0.12)):
            p = av.Packet(b"\xff\x06" + b"\xff\xfe" * 6)
            p.stream, p.pts, p.dts, p.time_base = s, i * 120, i * 120, s.time_base
            f.mux(p)
    return out.getvalue()
