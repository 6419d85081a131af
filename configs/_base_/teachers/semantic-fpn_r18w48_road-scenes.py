"""Semantic FPN-R18 of base width 48 on the road scenes; shipped."""
teacher = dict(
    config='configs/baselines/semantic-fpn_r18w48_b8-1200i_road-scenes.py',
    checkpoint='data/teachers/road-scenes_semantic-fpn-r18w48.pth')
