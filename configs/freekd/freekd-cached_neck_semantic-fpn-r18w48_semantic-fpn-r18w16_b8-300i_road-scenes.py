"""FreeKD on the FPN with a cached teacher: four fixed views of every image, for which the teacher runs once."""
_base_ = ['./freekd_neck_semantic-fpn-r18w48_semantic-fpn-r18w16_b8-300i_road-scenes.py']
views = 4
model = dict(teacher=dict(cache=dict(dir='work_dirs/teacher-cache/road-scenes_semantic-fpn-r18w48', views=views)))
train_dataloader = dict(
    dataset=dict(_delete_=True, type='freqkd.FixedViews', views=views, dataset={{_base_.train_dataloader.dataset}}))
