"""Stage 2 of FreeKD+ on the FPN, with the prompts of FreeKD's stage 1; the student refines their masks."""
_base_ = [
    '../baselines/semantic-fpn_r18w16_b8-300i_road-scenes.py',
    '../_base_/teachers/semantic-fpn_r18w48_road-scenes.py',
    '../_base_/distill/neck_road-scenes.py',
]
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}}, monitor=20,
    terms=dict(
        loss_freekd=dict(
            _base_.neck_term,
            loss=dict(type='freqkd.FreeKDPlusLoss'),
            weight=dict(ratio=2.0, iters=50),
            prompts='work_dirs/prompts_neck_semantic-fpn-r18w48_b8-80i_road-scenes/prompts.pth')))
