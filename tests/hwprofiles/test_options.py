"""Models from the command line."""

from __future__ import annotations

from hwprofiles import options


def test_the_size_is_the_models_own_where_none_is_given() -> None:
    built, size = options.create_models_at(["test_vit"], [], None, [])
    assert size == (3, 160, 160) and list(built) == ["test_vit"]
    assert options.create_models_at(["test_vit"], [], None, ["in_chans=1"])[1] == (1, 160, 160)
    built, size = options.create_models_at(["test_vit"], [], (1, 160, 160), [])
    assert size == (1, 160, 160) and built["test_vit"].patch_embed.proj.in_channels == 1
