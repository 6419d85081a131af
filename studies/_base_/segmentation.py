"""Segmentation: the metric, and terms on the necks of Semantic FPNs, 32 channels to 64, strides 4 to 32."""

metric = dict(key="mIoU", scale=100.0)
term = dict(
    student_tap="neck", align=dict(type="freqkd.ConvAlign", student_channels=32, teacher_channels=64, num_levels=4)
)
