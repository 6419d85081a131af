"""Stage 1 on COCO: frequency prompts on the neck of RTMDet-s. 8 GPUs x 2 images, 2000 iterations."""
_base_ = ['../_base_/prompts_coco_640.py', '../_base_/teachers/rtmdet_s_coco.py']
model = dict(
    type='freqkd.PromptTuner', teacher={{_base_.teacher}}, tap='neck',
    prompts=dict(channels=128, num_levels=3, num_prompts=2, preset='paper'))
