"""A narrow classifier, a quarter of the teacher's width."""
_base_ = ['classifier_teacher.py']
model = dict(width=8)
train_cfg = dict(max_epochs=4, val_interval=4)
