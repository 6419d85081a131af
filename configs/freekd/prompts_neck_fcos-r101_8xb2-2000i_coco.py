"""Stage 1 on COCO: frequency prompts on the FPN of FCOS-R101. 8 GPUs x 2 images, 2000 iterations."""
_base_ = ['../_base_/prompts_coco.py', '../_base_/teachers/fcos_r101_coco.py']
model = dict(
    type='freqkd.PromptTuner', teacher={{_base_.teacher}}, tap='neck',
    prompts=dict(channels=256, num_levels=5, num_prompts=6, preset='official', normalize=True))
