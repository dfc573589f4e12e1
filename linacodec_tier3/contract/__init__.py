"What a job may hold and what comes back. Written by hand; the modules beside it are exported from `nbs/contract`."
from .messages import *
from .request import *
