"""What the page says of models: what one made of fixed texts while it learned."""

from stages.report.contents import SampleRow, sample_rows


def test_samples_stand_by_text_in_the_order_of_the_steps_and_the_kept_weights_are_named() -> None:
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
