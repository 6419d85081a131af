"""Stage 1 on ADE20K: frequency prompts on the fused map of the head of SegFormer-B5.

8 GPUs x 2 crops of 512x512, 2000 iterations.
"""
_base_ = ['../_base_/prompts_ade20k.py', '../_base_/teachers/segformer_b5_ade20k.py']
model = dict(
    type='freqkd.PromptTuner', teacher={{_base_.teacher}}, tap='decode_head.fusion_conv',
    prompts=dict(channels=256, num_levels=1, num_prompts=2, preset='paper'))
