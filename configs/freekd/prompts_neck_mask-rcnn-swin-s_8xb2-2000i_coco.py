"""Stage 1 on COCO: frequency prompts on the FPN, P3 to P6 of Mask R-CNN-Swin-S. 8 GPUs x 2 images, 2000 iterations."""
_base_ = ['../_base_/prompts_coco_masks.py', '../_base_/teachers/mask-rcnn_swin-s_coco.py']
model = dict(
    type='freqkd.PromptTuner', teacher={{_base_.teacher}}, tap='neck', levels=(1, 2, 3, 4),
    prompts=dict(channels=256, num_levels=4, num_prompts=2, preset='paper'))
