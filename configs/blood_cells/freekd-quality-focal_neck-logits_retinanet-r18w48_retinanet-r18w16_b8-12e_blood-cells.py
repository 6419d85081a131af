"""FreeKD on the FPN and the quality-focal term on the class maps, in one distiller."""
_base_ = ['./freekd_neck_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py']
model = dict(
    terms=dict(
        loss_logit=dict(
            type='freqkd.DistillTerm',
            student='bbox_head.retina_cls',
            adapter=dict(type='freqkd.DenseLogits', num_classes=3),
            loss=dict(
                type='freqkd.LogitLoss', softening=dict(type='fixed', tau=1.0),
                divergence=dict(type='quality_focal', beta=1.0), activation='sigmoid'),
            weight=dict(share=0.5, iters=50))))
