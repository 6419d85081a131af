"""The details of the wavelet transform alone, every coefficient alike, squared: MSE without its low band. Needs no stage 1."""
_base_ = ['../_base_/distill/blood_cells_neck.py']
model = dict(
    terms=dict(
        loss_feature=dict(
            align=dict(type='freqkd.ConvAlign', student_channels=32, teacher_channels=64, num_levels=3),
            loss=dict(type='freqkd.FreeKDLoss', channels=64, num_levels=3, preset='details'),
            weight=dict(share=8.0))))
