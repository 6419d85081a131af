"""Stage 1 on Cityscapes: frequency prompts on the four stages of the backbone of Mask2Former-Swin-S.

4 GPUs x 2 crops of 512x1024, 2000 iterations.
"""
_base_ = ['../_base_/prompts_cityscapes.py', '../_base_/teachers/mask2former_swin-s_cityscapes.py']
model = dict(
    type='freqkd.PromptTuner', teacher={{_base_.teacher}}, tap='backbone',
    prompts=dict(channels=[96, 192, 384, 768], num_levels=4, num_prompts=2, preset='paper'))
