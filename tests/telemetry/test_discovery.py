"""Observers are found; OpenTelemetry is imported by the program, and never by us."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as words

from rsd_core import TargetOnly
from rsd_core.testing import ScriptedTarget
from rsd_integrations.telemetry.described import PROVIDERS
from tests.core import plugin_packages

RUN = (
    "from rsd_core import RSDConfig\n"
    "config = RSDConfig(drafter='scripted:draft', verifier='scripted:verifier', target='scripted:target')\n"
)


def python(code: str, **environment: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


A_PROGRAM = (
    RUN
    + """
import sys
from rsd_core import observing

decoder = config.build()
decoder.run("q")
print([name for name in sys.modules if "telemetry" in name])

from opentelemetry import metrics, trace

print(observing.begin(decoder))  # the API alone does nothing, so there are no observers
decoder.run("q")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter, reader, provider = InMemorySpanExporter(), InMemoryMetricReader(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
metrics.set_meter_provider(MeterProvider([reader]))
decoder.run("q")
names = [span.name for span in exporter.get_finished_spans()]
print(names.count("invoke_workflow RewardGuidedDecoder"), "rsd.requests" in reader.get_metrics_data().to_json())
"""
)


def test_opentelemetry_is_used_once_the_program_does_and_not_imported_before() -> None:
    """Providers may be set after the decoder was made, and used."""
    assert python(A_PROGRAM).splitlines() == ["[]", "None", "1 True"]


def test_a_program_without_the_api_runs_where_a_part_of_the_name_is_there(tmp_path: Path) -> None:
    """`opentelemetry` is a namespace: other packages than the API's may be in it."""
    (tmp_path / "opentelemetry").mkdir()
    code = (
        "import sys, opentelemetry\n"
        "class Blocker:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.startswith('opentelemetry.'): raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Blocker())\n" + RUN + "print(config.build().run('q').answer)"
    )
    assert python(code, PYTHONPATH=os.pathsep.join([str(tmp_path), *filter(None, sys.path)])) == "10"


def test_the_words_are_those_of_the_installed_conventions() -> None:
    known = {value for value in vars(words).values() if isinstance(value, str)}
    source = "".join(
        file.read_text()
        for file in Path(importlib.import_module("rsd_integrations.telemetry").__path__[0]).glob("*.py")
    )
    used = {word for word in source.split('"') if word.startswith("gen_ai.") and not word.startswith("gen_ai.client.")}
    assert len(used) >= 8
    assert used <= known
    assert set(PROVIDERS.values()) <= {value.value for value in words.GenAiProviderNameValues}


OBSERVER = """
class Watch:
    async def call(self, role, model, work):
        seen.append(role)
        return await work

    def happened(self, event):
        raise RuntimeError("no")

    def end(self, result, error):
        seen.append(result.finish_reason)

class Observer:
    def begin(self, decoder):
        return Watch()

seen = []
observer = Observer()
"""


def test_observers_of_packages_are_found_and_broken_ones_are_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plugin_packages.install(tmp_path, "rsd-seeing", OBSERVER, observers={"seeing": "rsd_seeing:observer"})
    plugin_packages.install(tmp_path, "rsd-blind", "1 / 0", observers={"blind": "rsd_blind:observer"})
    monkeypatch.syspath_prepend(str(tmp_path))
    decoder = TargetOnly(target=ScriptedTarget(["One.\n\n", "Two."]))
    for _ in range(2):
        assert decoder.run("Count.").text == "One.\n\nTwo."
    assert importlib.import_module("rsd_seeing").seen == ["target", "target", "stop"] * 2
    broken = [record for record in caplog.records if "blind" in str(record.exc_info)]
    assert len(broken) == 1
    assert "pip uninstall rsd-blind" in str(broken[0].exc_info)
