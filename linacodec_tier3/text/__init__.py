"What is written, as it is to be said. Written by hand; the modules beside it are exported from `nbs/text`."
from .spoken import SpokenText, spoken_form, spoken_paragraphs
