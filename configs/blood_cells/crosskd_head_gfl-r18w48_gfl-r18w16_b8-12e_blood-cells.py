"""CrossKD (arXiv 2306.11369) from the FPN on: widths differ, so an align brings the student's features into the teacher's head."""
_base_ = ['../_base_/distill/blood_cells_gfl.py']
model = dict(
    terms=dict(
        loss_head=dict(
            align=dict(type='freqkd.ConvAlign', student_channels=32, teacher_channels=64, num_levels=5),
            adapter=dict(type='freqkd.CrossHead', index=0, cls='gfl_cls', reg='gfl_reg'),
            loss=dict(type='freqkd.CrossKDLoss'))))
