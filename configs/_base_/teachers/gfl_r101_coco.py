"""GFL-R101 on COCO, multi-scale 2x, as mmdet publishes it."""
teacher = dict(
    config='mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py',
    checkpoint='https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_r101_fpn_mstrain_2x_coco/'
        'gfl_r101_fpn_mstrain_2x_coco_20200629_200126-dd12f847.pth')
