"""Detection: the metric, and terms on the FPNs of RetinaNets, 32 channels to 64, strides 8 to 32."""

metric = dict(key="coco/bbox_mAP", name="box AP")
term = dict(
    student_tap="neck",
    student_levels=(0, 1, 2),
    align=dict(type="freqkd.ConvAlign", student_channels=32, teacher_channels=64, num_levels=3),
)
