__version__ = "0.1.0"
_HOMES = dict(LinaCodec="codec", Client="client", speak="client", LocalEndpoint="local.endpoint", register_engine="tts")
__all__ = [*_HOMES]


def __getattr__(name):
    "The names that most people need, each imported when it is first used."
    if name not in _HOMES: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module
    globals()[name] = found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return found


def __dir__(): return sorted({*globals(), *_HOMES})
