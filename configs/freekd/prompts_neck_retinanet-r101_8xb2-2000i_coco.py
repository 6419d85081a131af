"""Stage 1 on COCO: frequency prompts on the FPN of RetinaNet-R101. 8 GPUs x 2 images, 2000 iterations.

Token sets and T as in the released program. One difference, `normalize=True`: its plain sum of six masks would start
at gain 3.
"""
_base_ = ['../_base_/prompts_coco.py', '../_base_/teachers/retinanet_r101_coco.py']
model = dict(
    type='freqkd.PromptTuner', teacher={{_base_.teacher}}, tap='neck',
    prompts=dict(channels=256, num_levels=5, num_prompts=6, preset='official', normalize=True))
