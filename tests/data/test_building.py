"""What the build scripts share: a wrong source is one sentence, and nothing is written."""

import pytest


@pytest.mark.parametrize("name", ["build_home_objects", "build_kicad_parts"])
@pytest.mark.parametrize("content", [None, b"no archive"])
def test_a_wrong_source_ends_with_a_sentence(
    data_script, name, tmp_path, capsys, content
):
    source = tmp_path / "package.deb"
    if content:
        source.write_bytes(content)
    assert data_script(name).main([str(source), "--output", str(tmp_path / "out")]) == 1
    assert str(source) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
