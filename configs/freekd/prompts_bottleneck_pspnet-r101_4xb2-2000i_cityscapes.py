"""Stage 1 on Cityscapes: frequency prompts on the bottleneck before the classifier of PSPNet-R101.

4 GPUs x 2 crops of 512x1024, 2000 iterations.
"""
_base_ = ['../_base_/prompts_cityscapes.py', '../_base_/teachers/pspnet_r101_cityscapes.py']
model = dict(
    type='freqkd.PromptTuner', teacher={{_base_.teacher}}, tap='decode_head.bottleneck',
    prompts=dict(channels=512, num_levels=1, num_prompts=2, preset='paper'))
