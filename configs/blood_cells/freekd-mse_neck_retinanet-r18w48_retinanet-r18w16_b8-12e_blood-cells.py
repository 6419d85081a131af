"""FreeKD and MSE on the FPN, the two terms that the authors of FreeKD train detectors with. Share chosen on held-out images."""
_base_ = ['./freekd_neck_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py']
model = dict(
    terms=dict(
        loss_mse=dict(
            type='freqkd.DistillTerm',
            student='neck',
            levels=(0, 1, 2),
            align=dict(type='freqkd.ConvAlign', student_channels=32, teacher_channels=64, num_levels=3),
            loss=dict(type='freqkd.MSELoss'),
            weight=dict(share=16.0, iters=50))))
