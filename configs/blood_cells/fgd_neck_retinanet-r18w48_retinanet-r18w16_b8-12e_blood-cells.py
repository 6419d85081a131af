"""FGD (arXiv 2111.11837): cells and background apart, and the global context, on the FPN; parts weighted as its RetinaNet."""
_base_ = ['../_base_/distill/blood_cells_neck.py']
model = dict(
    terms=dict(
        loss_feature=dict(
            align=dict(type='freqkd.ConvAlign', student_channels=32, teacher_channels=64, num_levels=3),
            adapter=dict(type='freqkd.GroundTruthBoxes'),
            loss=dict(type='freqkd.FGDLoss', channels=64, num_levels=3, attention_weight=5e-4))))
