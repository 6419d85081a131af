"""FreeKD and MSE on the FPN, the two terms that the authors of FreeKD train detectors with. Ratio chosen on held-out images."""
_base_ = ['./freekd_neck_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py']
model = dict(
    terms=dict(loss_mse=dict(_base_.neck_term, loss=dict(type='freqkd.MSELoss'), weight=dict(ratio=16.0, iters=50))))
