"""MGD (arXiv 2205.01529): the teacher's FPN maps are made from the student's, of which 65 % is blanked out."""
_base_ = ['../_base_/distill/blood_cells_neck.py']
model = dict(
    terms=dict(
        loss_feature=dict(
            align=dict(type='freqkd.ConvAlign', student_channels=32, teacher_channels=64, num_levels=3),
            loss=dict(type='freqkd.MGDLoss', channels=64, num_levels=3, masked_share=0.65))))
