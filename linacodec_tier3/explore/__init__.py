"The explorer, for a notebook: `from linacodec_tier3.explore import Explorer`. It needs the `notebook` extra."


def __getattr__(name):
    "The application, imported when it is first used."
    if name != "Explorer": raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .app import Explorer
    return Explorer
