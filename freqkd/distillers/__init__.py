"""Where losses, taps and networks meet: the distiller, the prompt tuner, and what they are made of."""

from freqkd.distillers.distiller import Distiller as Distiller
from freqkd.distillers.prompt_tuner import PromptTuner as PromptTuner
from freqkd.distillers.teacher import Teacher as Teacher
from freqkd.distillers.terms import DistillTerm as DistillTerm
