"""What a command says at its end of a fine-tuned model."""

from ssl_sat.report.headlines import finetuning

BASIS = {"initialisation": "scratch", "bands": "B04,B03,B02", "epochs": 3}
VAL = {"val_accuracy": 0.9, "val_accuracy_low": 0.88, "val_accuracy_high": 0.92, "val_n": 900}


def test_test_results_with_intervals_gap_and_probes() -> None:
    test = {"test_accuracy": 0.8, "test_accuracy_low": 0.75, "test_accuracy_high": 0.84, "test_n": 300}
    more = {"test_macro_f1": 0.79, "test_nll": 0.6, "test_brier": 0.3, "test_ece": 0.1, "test_nll_scaled": 0.5,
            "test_brier_scaled": 0.28, "test_ece_scaled": 0.02, "temperature": 1.5, "gap": 0.1, "gap_low": 0.06,
            "gap_high": 0.14, "gap_of": "accuracy", "overfitting": True, "normalisation": "train split of x",
            "tuned_knn_accuracy": 0.7, "start_knn_accuracy": 0.4}  # fmt: skip
    assert finetuning({**BASIS, **VAL, **test, **more}) == [
        "initialisation: scratch; bands: B04,B03,B02; 3 epochs",
        "normalisation: train split of x",
        "val accuracy 0.9000 [0.8800, 0.9200], n = 900",
        "test accuracy 0.8000 [0.7500, 0.8400], n = 300",
        "test macro F1 0.7900; nll 0.6000 -> 0.5000; brier 0.3000 -> 0.2800; ece 0.1000 -> 0.0200; "
        "at temperature 1.500",
        "train - val accuracy, seen alike: +0.1000 [+0.0600, +0.1400], over-fitting",
        "knn accuracy of the encoder's features: 0.7000, before 0.4000",
    ]


def test_validation_alone_is_no_result() -> None:
    assert finetuning({**BASIS, **VAL})[-1] == (
        "no test split: validation chose the model, so these numbers are no result"
    )


def test_several_labels_are_told_by_average_precision() -> None:
    values = {"test_n": 50, "test_map_macro": 0.5, "test_map_micro": 0.6, "test_macro_f1": 0.4, "test_nll": 0.3,
              "test_brier": 0.1, "test_ece": 0.05}  # fmt: skip
    lines = finetuning({**BASIS, **values})
    assert "test map macro 0.5000, n = 50" in lines and not any("accuracy" in line for line in lines)
