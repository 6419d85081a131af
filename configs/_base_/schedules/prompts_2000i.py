"""Schedule of the full-size prompt stages, the one of MasKD's program: Adam 1e-2, cosine to 1e-6 over 2000 iterations."""
max_iters = 2000
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-2, weight_decay=1e-3))
param_scheduler = [
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=False, begin=0, end=max_iters, T_max=max_iters),
]
custom_hooks = [dict(type='freqkd.PromptFileHook')]
