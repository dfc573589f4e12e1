"""The installed package speaks a sentence, as tokens and as PCM, through the worker's own handler.

    docker run --rm -i --network none --entrypoint python IMAGE - < .ci/speaks.py

Nothing but the package is needed: no network, no GPU, no file of this tree. It ends with 1 for a sentence
that is not spoken whole.
"""
import asyncio, sys

from linacodec_tier3.handler import handler

TEXT = "The harbour was quiet when the last boat came in."


async def spoken(
    output_format:str, # of the contract
) -> str: # one line; raises SystemExit for what is no whole sentence
    "One job, as a worker takes it."
    request = dict(text=TEXT, stream=True, output_format=output_format, seed=1)
    messages = [m async for m in handler({"id": output_format, "input": request})]
    last, seconds = messages[-1], sum(m.get("duration", 0) for m in messages)
    whole = last["status"] == "complete" and last["format"] == output_format and "skipped" not in last
    if not whole or not 1 < seconds < 10: sys.exit(f"{output_format}: {seconds:.2f} s, {last}")
    return f"{output_format}: {seconds:.2f} s in {last['manifest']['partials']} partials"


async def main():
    for output_format in ("linacodec_tokens", "pcm_16"): print(await spoken(output_format))


if __name__ == "__main__": asyncio.run(main())
