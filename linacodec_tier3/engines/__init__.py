"The engines of this package, and `check`, which tries any engine out."


def __getattr__(name):
    "`check`, imported when it is first used."
    if name != "check": raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .conformance import check
    return check
