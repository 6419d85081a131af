"""Mask2Former-Swin-S on Cityscapes, 90k iterations, 82.57 mIoU, as mmseg publishes it."""
teacher = dict(
    config='mmseg::mask2former/mask2former_swin-s_8xb2-90k_cityscapes-512x1024.py',
    checkpoint='https://mmassets.onedl.ai/mmsegmentation/v0.5/mask2former/mask2former_swin-s_8xb2-90k_cityscapes-512x1024/'
        'mask2former_swin-s_8xb2-90k_cityscapes-512x1024_20221127_143802-9ab177f6.pth')
