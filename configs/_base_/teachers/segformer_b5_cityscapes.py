"""SegFormer-B5 on Cityscapes, 160k iterations, 82.25 mIoU, as mmseg publishes it."""
teacher = dict(
    config='mmseg::segformer/segformer_mit-b5_8xb1-160k_cityscapes-1024x1024.py',
    checkpoint='https://mmassets.onedl.ai/mmsegmentation/v0.5/segformer/segformer_mit-b5_8x1_1024x1024_160k_cityscapes/'
        'segformer_mit-b5_8x1_1024x1024_160k_cityscapes_20211206_072934-87a052ec.pth')
