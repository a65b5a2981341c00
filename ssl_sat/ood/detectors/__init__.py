"""The detectors. Each module builds objects that keep the contract in `ssl_sat.ood.contract`."""
