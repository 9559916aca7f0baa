"""The plateau meter on synthetic curves with entropy H = 6, and on two measured ones."""

import numpy as np
import pytest

from bertjax.train.telemetry.plateau import PlateauMeter

H = 6.0


def reports(losses, *, every=500, meter=None, first=1, metric="mlm_loss", rate=1e-4):
    """Returns [(step, sentence)] over evaluations with these losses."""
    meter = meter or PlateauMeter({metric: H})
    found = []
    for number, loss in enumerate(losses, start=first):
        step = number * every
        train = {"step": step, "kind": "train", "mlm_loss": H, "learning_rate": rate}
        assert meter(train) is None
        if sentence := meter({"step": step, "kind": "eval", metric: loss}):
            found.append((step, sentence))
    return found


def test_a_plateau_is_reported_once():
    ((step, sentence),) = reports([6.5, 6.02, 6.01, 6.0, 6.01, 5.99, 6.0])
    assert step == 1500
    assert "From step 1,000 to 1,500" in sentence
    assert "held-out mlm_loss 6.010, unigram entropy 6.000" in sentence
    assert "learning rate too low or too high (it is 1.0e-04)" in sentence
    assert "`initialization.positions` waves and `initialization.attention` neighbors" in sentence
    assert "\n" not in sentence and sentence.endswith(".")


def test_two_runs_on_novels():
    """experiments/novels_l4_h256.py with averaging attention, which stayed, and without."""
    entropy = 6.472 / H
    stood = [loss / entropy for loss in (6.516, 6.495, 6.477, 6.468, 6.469, 6.470)]
    ((step, _),) = reports(stood, every=400)
    assert step == 1200
    learned = [loss / entropy for loss in (5.624, 5.046, 4.792, 4.636, 4.545, 4.470)]
    assert reports(learned, every=300) == []


def test_leaving_is_reported_once_and_returning_is_not():
    (_, entering), (step, leaving) = reports([6.0, 6.0, 5.9, 5.71, 5.69, 5.6, 5.9, 6.0, 6.0, 6.0])
    assert "only predicted" in entering
    assert step == 2500
    assert leaving == (
        "At step 2,500 the model predicts more than how often each token occurs: held-out mlm_loss "
        "5.690, unigram entropy 6.000."
    )


@pytest.mark.parametrize(
    "losses",
    [
        [9.0, 8.0, 7.0, 6.5, 6.2, 5.9, 5.5, 5.0],  # passes the entropy while learning
        [7.0, 6.9, 6.9, 6.9],  # has not learned the frequencies
        [5.5, 5.5, 5.5],  # flat below the entropy
        [6.0],
        [6.1, 6.03, 5.96, 5.89, 5.82, 5.7],  # falls by more than a percent each time
        [float("nan")] * 5,
    ],
)
def test_other_losses_are_no_plateau(losses):
    assert reports(losses) == []


def test_frequent_evaluations_must_agree_over_500_steps():
    falling = list(np.linspace(6.3, 5.5, 41))  # 0.02 an evaluation, 0.3% of H: looks flat
    assert reports(falling, every=50) == []
    ((step, _),) = reports([6.3, 6.1] + [6.0] * 20, every=50)
    assert step == (3 + 10) * 50


def test_a_dip_between_two_flat_ends_is_no_plateau():
    assert reports([6.0, 5.6, 6.0, 5.6, 6.0, 6.0], every=250) == []


def test_a_resumed_run_repeats_no_report():
    losses = [6.5, 6.0, 6.0, 6.0, 5.5]
    whole = reports(losses)
    for cut in range(len(losses)):
        meter = PlateauMeter({"mlm_loss": H})
        before = reports(losses[:cut], meter=meter)
        again = PlateauMeter({"mlm_loss": H})
        reports(losses[:cut], meter=again)  # the history, whose reports are dropped
        assert before + reports(losses[cut:], meter=again, first=cut + 1) == whole


def test_several_corpora_enter_and_leave_the_plateau_together():
    meter = PlateauMeter({"mlm_loss.a": 6.0, "mlm_loss.b": 4.0})

    def see(step, a, b):
        return meter({"step": step, "kind": "eval", "mlm_loss.a": a, "mlm_loss.b": b})

    assert see(500, 6.0, 4.4) is None and see(1000, 6.0, 4.4) is None
    assert see(1500, 6.0, 4.0) is None
    sentence = see(2000, 6.0, 4.0)
    assert "mlm_loss.a 6.000, unigram entropy 6.000, held-out mlm_loss.b 4.000" in sentence
    assert see(2500, 5.0, 4.0) is None
    assert "predicts more" in see(3000, 5.0, 3.5)


def test_without_entropies_nothing_is_reported():
    meter = PlateauMeter({})
    assert [meter({"step": step, "kind": "eval", "mlm_loss": 6.0}) for step in (500, 1000)] == [
        None
    ] * 2
