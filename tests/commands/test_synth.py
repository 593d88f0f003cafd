import pytest

from jaxbrats import commands


def test_writes_a_cohort_and_says_what_it_holds(tmp_path, capsys):
    out = tmp_path / "cohort"
    assert commands.run(["synth", f"--out={out}", "--cases=6", "--shape=20,24,20", "--seed=3", "--workers=1"]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        *(f"BraTS-GLI-0000{patient}-000" for patient in range(5)),
        "BraTS-GLI-00004-001",
    ]
    assert len(list(out.rglob("*.nii.gz"))) == 30
    assert "6 cases of 5 patients" in capsys.readouterr().out


def test_refuses_to_mix_in_one_line(tmp_path, capsys):
    arguments = ["synth", f"--out={tmp_path}", "--cases=2", "--shape=20,24,20", "--workers=1"]
    assert commands.run(arguments) == 0
    capsys.readouterr()
    assert commands.run([*arguments, "--seed=4"]) == 1
    message = capsys.readouterr().err.strip()
    assert message.count("\n") == 0
    assert "BraTS-GLI-00000-000" in message
    assert "--seed=0" in message
    assert "Choose another folder" in message


def test_flags_go_back_to_their_defaults(tmp_path):
    arguments = ["--cases=1", "--shape=20,24,20", "--workers=1"]
    assert commands.run(["synth", f"--out={tmp_path / 'a'}", "--seed=4", *arguments]) == 0
    assert commands.run(["synth", f"--out={tmp_path / 'b'}", *arguments]) == 0
    assert commands.run(["synth", f"--out={tmp_path / 'b'}", "--seed=0", *arguments]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "out"),
        (["--out=x", "--cases=0"], "cases"),
        (["--out=x", "--cases=many"], "cases"),
        (["--out=x", "--seed=-1"], "seed"),
        (["--out=x", "--shape=96,96"], "three whole numbers"),
        (["--out=x", "--shape=96,96,8"], "from 16"),
        (["--out=x", "--shape=96,96,big"], "three whole numbers"),
        (["--out=x", "--workers=0"], "workers"),
        (["--out=x", "--bogus=1"], "bogus"),
    ],
)
def test_wrong_flags_are_a_wrong_command_line(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert commands.run(["synth", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_shows_an_example(capsys):
    assert commands.run(["synth", "--help"]) == 0
    assert "jaxbrats synth --out=DIR --cases=24 --shape=96,96,80 --seed=0" in capsys.readouterr().out


def test_a_hard_cohort_says_how_to_train_across_scanners(tmp_path, capsys):
    arguments = ["synth", f"--out={tmp_path}", "--cases=2", "--shape=20,24,20", "--workers=1"]
    assert commands.run([*arguments, "--hard"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert f"--config.data.split={tmp_path / 'split.json'}" in last
    assert (tmp_path / "split.json").is_file()
    assert commands.run(arguments) == 1
    assert "--hard" in capsys.readouterr().err
