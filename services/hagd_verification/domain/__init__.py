"""Pure maths of stage 4: nulls, measures, tests and the verdict."""
