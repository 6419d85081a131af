"""SegFormer-B5 on ADE20K, 160k iterations of 512x512, 49.13 mIoU, as mmseg publishes it."""
teacher = dict(
    config='mmseg::segformer/segformer_mit-b5_8xb2-160k_ade20k-512x512.py',
    checkpoint='https://mmassets.onedl.ai/mmsegmentation/v0.5/segformer/segformer_mit-b5_512x512_160k_ade20k/'
        'segformer_mit-b5_512x512_160k_ade20k_20210726_145235-94cedf59.pth')
