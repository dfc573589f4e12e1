"A worker on the SDK's production loop, whose handler yields numbers and misbehaves on request."
import asyncio, os, signal, time

import runpod


def hang(): # as an engine may, whatever it is told
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True: time.sleep(1)


async def handler(job):
    ask = job["input"]
    for seq in range(ask.get("n", 3)):
        await asyncio.sleep(ask.get("pause", 0))
        if seq == ask.get("die_at"): os.kill(os.getpid(), signal.SIGKILL)
        if seq == ask.get("fail_at"): raise ValueError(f"cannot make partial {seq}")
        if seq == ask.get("hang_at"): hang()
        said = {"job": job} if ask.get("tell") else {}
        yield said | {"seq": seq, "pid": os.getpid(), "data": "x" * ask.get("bytes", {}).get(str(seq), 0)}


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler, "return_aggregate_stream": True,
                             "concurrency_modifier": lambda now: int(os.environ.get("CONCURRENCY", 1))})
