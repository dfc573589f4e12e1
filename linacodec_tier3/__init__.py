import os as _os

__version__ = "0.1.0"
_HOMES = dict(LinaCodec="codec", Client="client", speak="client", client_for="direct", LocalEndpoint="local.endpoint", register_engine="tts")
__all__ = [*_HOMES]
_LEVELS = "NOTSET", "TRACE", "DEBUG", "INFO", "WARN", "ERROR"  # that RunPod's SDK takes


def _correct_log_levels(env):
    "Put these variables so that RunPod's SDK can be imported: it ends the process for a level it does not know."
    for name in ("RUNPOD_LOG_LEVEL", "RUNPOD_DEBUG_LEVEL"):
        if (given := env.get(name)) is None: continue
        level = given.strip().upper()
        level = {"WARNING": "WARN", "CRITICAL": "ERROR", "FATAL": "ERROR"}.get(level, level)
        if level.isdecimal() and int(level) < len(_LEVELS): level = _LEVELS[int(level)]
        if level in _LEVELS: env[name] = level
        else:
            del env[name]
            from logging import getLogger
            known = ", ".join(_LEVELS)
            if level: getLogger(__name__).warning("%s=%a: expected one of %s; left out", name, given, known)


_correct_log_levels(_os.environ)


def __getattr__(name):
    "The names that most people need, each imported when it is first used."
    if name not in _HOMES: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module
    globals()[name] = found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return found


def __dir__(): return sorted({*globals(), *_HOMES})
