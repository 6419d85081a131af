"""Stage 2 of FreeKD+ on the FPN, levels P3 to P5, with the prompts of FreeKD's stage 1; the student refines their masks."""
_base_ = [
    '../baselines/retinanet_r18w16_b8-12e_blood-cells.py',
    '../_base_/teachers/retinanet_r18w48_blood-cells.py',
    '../_base_/distill/neck_blood-cells.py',
]
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}}, monitor=20,
    terms=dict(
        loss_freekd=dict(
            _base_.neck_term,
            loss=dict(type='freqkd.FreeKDPlusLoss'),
            weight=dict(ratio=8.0, iters=50),
            prompts='work_dirs/prompts_neck_retinanet-r18w48_b8-4e_blood-cells/prompts.pth')))
