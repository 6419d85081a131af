"""DeepLabV3-R101 on Cityscapes, 80k iterations, 80.2 mIoU, as mmseg publishes it."""
teacher = dict(
    config='mmseg::deeplabv3/deeplabv3_r101-d8_4xb2-80k_cityscapes-512x1024.py',
    checkpoint='https://mmassets.onedl.ai/mmsegmentation/v0.5/deeplabv3/deeplabv3_r101-d8_512x1024_80k_cityscapes/'
        'deeplabv3_r101-d8_512x1024_80k_cityscapes_20200606_113503-9e428899.pth')
