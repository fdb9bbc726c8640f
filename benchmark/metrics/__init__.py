"""Metrics: pure functions from arrays to numbers, in float64, each checked against an independent reference.

The modules are imported one by one (`from benchmark.metrics.calibration import ece`); this package imports none of
them, so that a command that needs no metric does not pay for SciPy.

===================  ==================================================================================
module               what it holds
===================  ==================================================================================
`scores`             cosines, logits, softmax
`classification`     accuracy, top-k, recall per class
`calibration`        reliability bins, ECE, MCE, adaptive ECE, Brier score, NLL, the ECE floor
`logit_scale`        logit scale tuning (also importable from `calibration`)
`detection`          AUROC, AUPR, FPR95 of scores that are higher in distribution
`ood`                MSP, MCM, MaxLogit, energy, entropy, GL-MCM, NegLabel
`robustness`         relative change, spurious gaps, corruption error, groups
`selective`          risk-coverage curve, AURC, accuracy at a coverage
`uncertainty`        replicates, estimates with intervals, paired proportions
`significance`       Benjamini-Hochberg, stars
`gain`               gain, energy ratio, systematic share of paired numbers, by group; margins
`spectrum`           streaming Gram matrices, signal and noise per direction, effective rank, angles
===================  ==================================================================================
"""
