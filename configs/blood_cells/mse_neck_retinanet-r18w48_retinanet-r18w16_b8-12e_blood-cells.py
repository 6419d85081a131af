"""Plain MSE on the FPN: what every feature method is to be measured against. Share chosen on held-out training images."""
_base_ = ['../_base_/distill/blood_cells_neck.py']
model = dict(
    terms=dict(
        loss_feature=dict(
            align=dict(type='freqkd.ConvAlign', student_channels=32, teacher_channels=64, num_levels=3),
            loss=dict(type='freqkd.MSELoss'),
            weight=dict(share=8.0, iters=50))))
