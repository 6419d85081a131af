"""The student alone on COCO: FCOS with the head of FreeKD's recipe, centre sampling, normalised boxes, GIoU, NMS at 0.6.

FreeKD's and MGD's numbers for FCOS have this student, CrossKD's mmdet's own one.
"""
_base_ = ['mmdet::fcos/fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco.py']
model = dict(
    bbox_head=dict(norm_on_bbox=True, center_sampling=True, loss_bbox=dict(type='GIoULoss', loss_weight=1.0)),
    test_cfg=dict(nms=dict(type='nms', iou_threshold=0.6)))
