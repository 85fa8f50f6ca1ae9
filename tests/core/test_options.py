"""Options of an agent: declared once, checked, documented, and known by name."""

import inspect
import math
import warnings

import numpy as np
import pytest

from tfpg.cli.values import each as each_item
from tfpg.core.options import (
    WithOptions,
    as_json,
    check_names,
    checked,
    count,
    flag,
    fraction,
    nonnegative,
    one_of,
    option,
    optional,
    options_of,
    positive,
    positive_fraction,
    type_of,
)
from tfpg.schedules import linear, probability_schedule


class Base(WithOptions):
    """A learner.

    Source:
        Somewhere, 1999.
    """

    model: object = option(help="The model.", in_config=False, kw_only=False)
    gamma: float = option(default=0.99, check=fraction, help="Discount factor, in [0, 1].")
    steps: "int | None" = option(default=None, check=optional(count), help="Steps.")


class Derived(Base):
    """A learner with another default."""

    gamma: float = option(default=0.5, check=fraction, help="Another discount factor.")
    epochs: int = option(default=4, check=count, help="Passes over the data.")

    def __post_init__(self):
        super().__post_init__()
        self.total = self.epochs * 10


class TestDeclaration:
    def test_the_constructor_takes_and_converts_options(self):
        made = Base("net", gamma=1, steps=np.int64(3))
        assert (made.model, made.gamma, made.steps) == ("net", 1.0, 3)
        assert type(made.gamma) is float
        assert type(made.steps) is int
        assert Base(model="net").model == "net"

    def test_only_options_that_say_so_are_positional(self):
        with pytest.raises(TypeError, match="positional"):
            Base("net", 0.9)

    def test_an_option_without_a_default_is_required(self):
        with pytest.raises(TypeError, match="model"):
            Base()

    def test_a_value_out_of_its_range_is_named(self):
        with pytest.raises(ValueError, match=r"^gamma must be a number from 0 to 1, got 2\.$"):
            Base("net", gamma=2)
        with pytest.raises(ValueError, match=r"^steps must be an integer of .* 1 or None, got 0\."):
            Base("net", steps=0)

    def test_an_unknown_option_is_refused_with_the_nearest_one(self):
        with pytest.raises(
            TypeError, match="Unknown Derived option 'epoch'. Did you mean 'epochs'"
        ):
            Derived("net", epoch=3)

    def test_check_options_checks_what_was_set_later(self):
        made = Base("net")
        made.gamma = 1
        made.check_options()
        assert type(made.gamma) is float
        made.gamma = -1
        with pytest.raises(ValueError, match="gamma must be"):
            made.check_options()

    def test_post_init_sees_checked_options(self):
        assert Derived("net", epochs=np.int32(2)).total == 20

    def test_the_repr_shows_the_options_that_differ_from_their_defaults(self):
        assert repr(Derived("net")) == "Derived()"
        assert repr(Derived("net", gamma=0.5, steps=2)) == "Derived(steps=2)"

    def test_objects_are_compared_by_identity(self):
        assert Base("net") != Base("net")
        assert len({Base("net"), Base("net")}) == 2


class TestReflection:
    def test_options_of_base_classes_come_first_and_may_be_redeclared(self):
        options = options_of(Derived)
        assert list(options) == ["model", "gamma", "steps", "epochs"]
        assert options["gamma"].default == 0.5
        assert options_of(Base)["gamma"].default == 0.99
        assert options["gamma"].help == "Another discount factor."
        assert [each.group for each in options.values()] == ["Base", "Base", "Base", "Derived"]
        assert [each.in_config for each in options.values()] == [False, True, True, True]

    def test_options_check_values(self):
        assert options_of(Derived)["epochs"].checked(np.int8(2)) == 2
        assert options_of(Derived)["model"].checked("anything") == "anything"
        with pytest.raises(ValueError, match="epochs must be"):
            options_of(Derived)["epochs"].checked(0)

    def test_types_that_are_written_as_text_are_evaluated(self):
        assert type_of(Derived, "steps") == int | None
        assert type_of(Derived, "gamma") is float

    def test_the_docstring_lists_every_option_after_the_summary(self):
        text = inspect.getdoc(Base)
        assert text.startswith("A learner.\n\nArgs:\n    model: The model.\n    gamma: Discount")
        assert "gamma: Discount factor, in [0, 1]. Default: 0.99." in text
        assert text.endswith("Source:\n    Somewhere, 1999.")
        assert "gamma: Another discount factor. Default: 0.5." in Derived.__doc__

    def test_the_signature_shows_every_option_and_its_default(self):
        assert str(inspect.signature(Derived)) == (
            "(model: object, *, gamma: float = 0.5, steps: 'int | None' = None, epochs: int = 4)"
        )

    def test_every_option_of_every_agent_has_help_a_type_and_a_valid_default(self):
        from tfpg.agents.registry import algorithm_class

        for name in ("reinforce", "a2c", "ppo", "dqn"):
            agent = algorithm_class(name)
            for each in options_of(agent).values():
                assert each.help.endswith("."), each
                assert type_of(agent, each.name) is not None
                if each.in_config:
                    with warnings.catch_warnings():
                        warnings.simplefilter("error")
                        each.checked(each.default)


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (fraction, [0, 1, 0.5, "0.5", np.float32(0.25)], [-0.1, 1.1, math.nan, True, "x", None]),
        (positive_fraction, [1, 0.01], [0, 1.1, math.nan, False]),
        (positive, [1e-9, 1e9, 3], [0, -1, math.inf, math.nan, True, []]),
        (nonnegative, [0, 1e9], [-1e-9, math.inf, math.nan, None]),
        (count, [1, 10**9, np.int64(3)], [0, -1, 1.0, 2.5, True, "3", None]),
        (flag, [True, False, 0, 1], [2, "yes", None]),
        (one_of("a", None), ["a", None], ["b", 0, False]),
        (one_of(True, False, "auto"), [True, False, "auto"], ["on", None, 2]),
        (optional(count), [None, 1], [0, 1.5, "None"]),
        (probability_schedule, [0, 1, 0.5, linear(1.0, 0.1, 10)], [-0.1, 1.5, "x", None]),
    ],
)
def test_checks_accept_what_is_in_their_range_alone(check, good, bad):
    for value in good:
        checked("x", value, check)
    for value in bad:
        with pytest.raises(ValueError, match="^x must be .*, got "):
            checked("x", value, check)


def test_checks_convert_values_to_plain_types():
    assert type(fraction(np.float32(0.5))) is float
    assert type(count(np.int64(2))) is int
    assert flag(1) is True
    assert optional(fraction)(1) == 1.0


def test_messages_of_optional_checks_say_what_none_means():
    with pytest.raises(ValueError, match="x must be an integer of at least 1 or auto, got 0"):
        checked("x", 0, optional(count, "auto"))


def test_messages_of_sequences_show_the_item_at_fault():
    for check in (each_item(count), optional(each_item(count))):
        with pytest.raises(ValueError, match=r"^x must be an integer of at least 1.*, got 0\.$"):
            checked("x", (64, 0), check)


def test_as_json_turns_schedules_into_text_and_constant_ones_into_numbers():
    assert as_json(linear(1.0, 0.1, 100)) == "linear(1.0, 0.1, 100)"
    assert as_json(probability_schedule(0.25)) == 0.25
    assert as_json((1, 2)) == [1, 2]
    assert as_json(None) is None


def test_unknown_names_are_refused_with_the_nearest_or_all_known_ones():
    check_names(["gamma"], ["gamma", "tau"], "option")
    with pytest.raises(ValueError, match="Unknown algorithm 'sac'. Available: a2c, ppo"):
        check_names(["sac"], ["a2c", "ppo"], "algorithm")
    with pytest.raises(ValueError, match="Unknown option 'gama'. Did you mean 'gamma'"):
        check_names(["gama"], ["gamma", "tau"], "option")
    with pytest.raises(KeyError, match="Available: gamma, tau."):
        check_names(["xyz"], ["gamma", "tau"], "option", error=KeyError)
    hints = {"discount": "gamma", "lr": "The model has the optimizer.", "beta": "alpha"}
    for name, hint in (
        ("discount", "In tfpg, it is called 'gamma'."),
        ("lr", "The model has the optimizer."),
        ("beta", "Available: gamma, tau."),
    ):
        with pytest.raises(ValueError, match=f"Unknown option '{name}'. {hint}"):
            check_names([name], ["gamma", "tau"], "option", hints)
