"""LinaCodec: `from linacodec_tier3.codec import LinaCodec`, which imports torch only then.

Written by hand; the modules beside it are exported from `nbs/codec`.
"""


def __getattr__(name):
    "The class, imported when it is first used."
    if name != "LinaCodec": raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .linacodec import LinaCodec
    return LinaCodec
