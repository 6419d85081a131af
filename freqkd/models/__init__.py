"""The models that MMEngine trains: `Distiller`, and the first stages `PromptTuner` and `BandHeadTuner`; the parts of a term."""

from freqkd.models.band_head import BandHeadTuner as BandHeadTuner
from freqkd.models.distiller import Distiller as Distiller
from freqkd.models.prompt_tuner import PromptTuner as PromptTuner
from freqkd.models.term import DistillTerm as DistillTerm
