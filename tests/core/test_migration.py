"""Code and files for earlier builds work, or are refused with a line that says what to change."""

import pytest

from rsd_core import ConfigurationError, Decoder, Model, WeightingPolicy


def test_a_policy_of_an_earlier_build_gets_an_error_with_its_methods_new_name() -> None:
    with pytest.raises(ConfigurationError, match=r"Mine\.forced is on_target_forced now"):

        class Mine(WeightingPolicy):
            def weight(self, reward: float) -> float:
                return reward

            def forced(self) -> None: ...


def test_a_decoder_of_an_earlier_build_gets_an_error_with_its_loops_arguments() -> None:
    with pytest.raises(ConfigurationError, match=r"Mine\._decode takes \(self, request, calls\) now"):

        class Mine(Decoder):
            @property
            def models(self) -> tuple[Model, ...]:
                return ()

            async def _decode(self, request):  # type: ignore[no-untyped-def, override]
                yield
