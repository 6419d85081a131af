"""Stage 1 on Cityscapes: frequency prompts on the fused map of the head of SegFormer-B5.

8 GPUs x 1 crop of 1024x1024, 2000 iterations.
"""
_base_ = ['../_base_/prompts_cityscapes_1024.py', '../_base_/teachers/segformer_b5_cityscapes.py']
model = dict(
    type='freqkd.PromptTuner', teacher={{_base_.teacher}}, tap='decode_head.fusion_conv',
    prompts=dict(channels=256, num_levels=1, num_prompts=2, preset='paper'))
