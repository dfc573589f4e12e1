def __getattr__(name):
    if name != "LinaCodec": raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .runtime import LinaCodec
    return LinaCodec
