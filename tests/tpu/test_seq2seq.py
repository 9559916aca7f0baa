"""Encoder-decoders compiled for four TPU chips: the training step, and beam search over a mesh."""

SMALL = ("--size", "tiny", "--length", "64", "--batch", "16", "--target-length", "32", "--fast")


def test_beam_search_talks_between_chips_only_about_its_end(cycles):
    facts = cycles(*SMALL, "--program", "generation")
    assert facts["steps_of_stages"] == [16, 16]
    assert len(facts["million_cycles_of_a_step"]) == 2
    # Whether all rows are done. The best tokens of a row, its beams and its cache stay on its chip.
    assert facts["collectives_in_loops"] == ["all-reduce u32[]"] * 2
    assert 0 < facts["peak_gib"] < 1  # of a model of 0.03 GiB


def test_a_training_step_adds_up_one_gradient_of_the_output_layer(cycles):
    facts = cycles(*SMALL, "--program", "seq2seq")
    # That of the encoder's word embeddings stays on the chips, a part of D each.
    assert facts["vocabulary_reductions"] == 1
    # The rest is softmax, LayerNorm, GELU, dropout and the optimizer, much for layers of 128.
    assert 1.0 < facts["flops_ratio"] < 1.1
    assert 0 < facts["peak_gib"] < 1
