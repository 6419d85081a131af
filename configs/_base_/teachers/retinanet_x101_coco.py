"""RetinaNet-X101-64x4d on COCO, 1x, 41.0 box AP, as mmdet publishes it."""
teacher = dict(
    config='mmdet::retinanet/retinanet_x101-64x4d_fpn_1x_coco.py',
    checkpoint='https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_x101_64x4d_fpn_1x_coco/'
        'retinanet_x101_64x4d_fpn_1x_coco_20200130-366f5af1.pth')
