"""What a phase took: exact sums and ratios."""

from weak_to_strong.cost import Cost, asked, ratio, trained


def test_flops_are_two_for_a_token_read_or_written_and_six_for_one_trained_on():
    assert asked(1000, calls=3, prompt_tokens=10, completion_tokens=5) == Cost(calls=3, prompt_tokens=10, completion_tokens=5, flops=30_000)
    assert asked(None, calls=1, prompt_tokens=10, completion_tokens=5).flops == 0
    assert trained(1000, 20) == Cost(trained_tokens=20, flops=120_000)


def test_costs_add_and_compare():
    total = asked(1000, calls=3, prompt_tokens=10, completion_tokens=5) + trained(1000, 20)
    assert (total.tokens, total.flops, total.calls) == (35, 150_000, 3)
    assert ratio(Cost(flops=300_000, cpu_s=10), total) == {"flops": 2.0, "tokens": 0.0, "cpu_s": None}
