"""FreeKD on the FPN with a cached teacher: four fixed views of every image, for which the teacher runs once."""
_base_ = ['./freekd_neck_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py']
views = 4
model = dict(teacher=dict(cache=dict(dir='work_dirs/teacher-cache/blood-cells_retinanet-r18w48', views=views)))
train_dataloader = dict(
    dataset=dict(_delete_=True, type='freqkd.FixedViews', views=views, dataset={{_base_.train_dataloader.dataset}}))
