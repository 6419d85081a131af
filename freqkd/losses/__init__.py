"""Losses: one method, one file, each a pure function and a thin module of the same name."""

from freqkd.losses.frequency import FreeKDLoss as FreeKDLoss
from freqkd.losses.frequency import freekd_loss as freekd_loss
from freqkd.losses.imitation import MSELoss as MSELoss
from freqkd.losses.imitation import PKDLoss as PKDLoss
from freqkd.losses.imitation import mse_loss as mse_loss
from freqkd.losses.imitation import pkd_loss as pkd_loss
