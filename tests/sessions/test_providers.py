"""A model's name, and what the CLI must be told to reach it."""

import pytest

from errors import AppError
from sessions import providers

CREDENTIAL = {"ANTHROPIC_API_KEY": "a-key", "ANTHROPIC_BASE_URL": "http://gateway"}
OLLAMA = "http://127.0.0.1:11434"


@pytest.mark.parametrize("model", ["", "sonnet", "claude-opus-4-1-20250805", "opus[1m]"])
def test_a_model_of_anthropics_goes_with_the_users_credential(model: str) -> None:
    assert providers.environment(model, CREDENTIAL, OLLAMA) == CREDENTIAL
    assert not providers.is_cloud(model)


def test_the_credential_is_not_changed_in_passing() -> None:
    given = dict(CREDENTIAL)
    providers.environment("sonnet", given, OLLAMA)["X"] = "y"
    assert given == CREDENTIAL


def test_a_cloud_model_goes_to_ollama_and_takes_no_key_along() -> None:
    model = "glm-5.1:cloud"
    assert providers.is_cloud(model)
    assert providers.environment(model, CREDENTIAL, "http://ollama:11434") == {
        "ANTHROPIC_BASE_URL": "http://ollama:11434",
        "ANTHROPIC_AUTH_TOKEN": "ollama",
        "ANTHROPIC_API_KEY": "",
        "ANTHROPIC_DEFAULT_OPUS_MODEL": model,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": model,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": model,
        "CLAUDE_CODE_USE_OPENAI": "1",
    }


@pytest.mark.parametrize("model", ["glm-5.1:Cloud", "cloud", "glm:cloudy", "glm-5.1:latest"])
def test_what_only_looks_like_a_cloud_model_is_none(model: str) -> None:
    assert providers.environment(model, CREDENTIAL, OLLAMA) == CREDENTIAL


@pytest.mark.parametrize(
    "model",
    [
        *("", "sonnet", "opus[1m]", "glm-5.1:cloud", "hf.co/org/model:Q4", "a" * 128, "0"),
        *("us.anthropic.claude-v1:0", "claude@20250101"),
    ],
)
def test_a_name_is_taken(model: str) -> None:
    assert providers.checked(model) == model


@pytest.mark.parametrize(
    "model",
    [
        *("-p", "--model=x", "a b", "a\n", "a\0", "a" * 129, "ünï", ".hidden", "/etc/passwd"),
        *("$(id)", "a;b", "a'b", " ", "[1m]", ":cloud"),
    ],
)
def test_what_is_no_name_is_refused(model: str) -> None:
    with pytest.raises(AppError, match=r"^A model's name has letters.*at most 128") as raised:
        providers.checked(model)
    assert raised.value.code == "invalid"
