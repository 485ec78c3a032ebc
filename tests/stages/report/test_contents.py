"""What the page says of models: the samples that a model made of fixed texts while it was trained."""

from stages.report.contents import SampleRow, sample_rows, steps_text


def test_samples_are_grouped_by_text_in_order_of_steps_and_the_kept_step_is_marked() -> None:
    rows = [
        {"number": number, "step": step, "description": text, "path": f"audio/{step}-{number}.flac"}
        for step in (1000, 0, 500)
        for number, text in ((2, "loud drums"), (1, "calm piano"))
    ]
    assert sample_rows(rows, kept_step=500) == tuple(
        SampleRow(
            text,
            (
                ("before", f"../audio/0-{number}.flac"),
                ("step 500, kept", f"../audio/500-{number}.flac"),
                ("step 1,000", f"../audio/1000-{number}.flac"),
            ),
        )
        for number, text in ((1, "calm piano"), (2, "loud drums"))
    )


def test_the_best_and_the_last_step_of_a_training_stopped_early_are_stated():
    metrics = [("best_step", 30.0), ("last_step", 39.0), ("valid_cross_entropy", 0.95604)]
    told = steps_text({"steps": 30, "metrics": metrics})
    assert told == "30, the best of the validations (0.956 nats on held-out tracks); the training went on to step 39"
    assert steps_text({"steps": 1000, "metrics": [("last_step", 1000.0)]}) == "1,000"
    assert steps_text({"steps": 1000, "metrics": None}) == "1,000"
