"""Refusals and self-identifications are found by their grammar: on real sentences, each labelled by
reading it, and on sentences of other languages that were written for this test."""

import json
from pathlib import Path

import polars as pl
import pytest

from expectations.data.identities import identifies
from retune.refusals import refuses

SENTENCES = Path(__file__).with_name("labelled_sentences.jsonl")
RULES = {"refusal": refuses, "self_identification": identifies}


def verdicts(flaw: str, texts: list[str]) -> list[bool]:
    plain = pl.col("plain").str.to_lowercase().str.replace_all("’", "'", literal=True)
    table = pl.DataFrame({"plain": texts}, schema={"plain": pl.String}).select(plain)
    return RULES[flaw](table).to_list()


@pytest.mark.parametrize("flaw", RULES)
@pytest.mark.parametrize("half", ["tuning", "held out"])
def test_precision_and_recall_on_real_sentences(flaw, half):
    """300 single sentences of public conversations with assistants. One person read and labelled all
    of them before writing the patterns, which were then corrected by the misses of one half only."""
    lines = [json.loads(line) for line in SENTENCES.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 300
    part = [line for line in lines if line["half"] == half]
    seen = verdicts(flaw, [line["text"] for line in part])
    right = sum(line[flaw] and is_so for line, is_so in zip(part, seen, strict=True))
    assert right >= 15
    assert right / sum(seen) >= 0.95
    assert right / sum(line[flaw] for line in part) >= 0.8


FOUND = {
    "refusal": (
        "I must decline to answer that.",
        "It would not be appropriate for me to guess her age.",
        "Thank you for asking! Unfortunately, I am not able to open links.",
        "This request goes against my guidelines.",
        "I don’t have personal opinions.",
        "I won't help with that.",
        "Es tut mir leid, aber ich kann Ihnen dabei nicht helfen.",
        "Leider kann ich keine Bilder erstellen.",
        "Ich habe keinen Zugriff auf das Internet.",
        "Je suis désolé, mais je ne peux pas vous aider avec cela.",
        "Je n'ai pas accès à vos fichiers.",
        "Lo siento, pero no puedo ayudarte con eso.",
        "No tengo acceso a información en tiempo real.",
        "Mi dispiace, ma non posso fornire queste informazioni.",
        "Desculpe, mas não posso ajudar com isso.",
        "很抱歉，我无法提供这方面的帮助。",
        "对不起，我不能回答这个问题。",
        "申し訳ありませんが、そのご質問にはお答えできません。",
        "申し訳ございませんが、画像を生成することはできません。",
        "Извините, но я не могу помочь с этим.",
        "К сожалению, у меня нет доступа к интернету.",
    ),
    "self_identification": (
        "As an AI, I do not eat.",
        "I'm ChatGPT, a model by OpenAI.",
        "I am a large language model trained by Google.",
        "My knowledge cutoff is 2023.",
        "I was created by Anthropic.",
        "I am DeepSeek, an assistant.",
        "Als KI-Sprachmodell habe ich keine Meinung.",
        "Ich bin ein Sprachmodell.",
        "En tant qu'intelligence artificielle, je n'ai pas d'avis.",
        "Como modelo de lenguaje, no como.",
        "Soy una inteligencia artificial.",
        "Come modello di linguaggio, non ho opinioni.",
        "Como um modelo de linguagem, não tenho opiniões.",
        "作为一个人工智能语言模型，我没有感情。",
        "我是通义千问。",
        "AI言語モデルとして、意見はありません。",
        "Как языковая модель, я не имею мнения.",
        "Я — языковая модель.",
        "Je suis ChatGPT, un modèle de langage entraîné par OpenAI.",
        "Bonjour ! Je suis un système développé par Mistral AI.",
        "Ich bin ChatGPT.",
        "Ich wurde im Jahr 2022 von OpenAI entwickelt.",
        "Soy ChatGPT y fui entrenado por OpenAI.",
        "Sono stato addestrato da Google.",
        "Eu sou o ChatGPT, treinado pela OpenAI.",
        "Я ChatGPT, обученный компанией OpenAI.",
        "私はChatGPTです。",
    ),
}
NOT = {
    "refusal": (
        "I'm sorry, but I can't come tonight, said Anna.",
        '"I cannot help you," said the wizard.',
        "Anna: I'm sorry, I can't help with the move.",
        "I'm sorry for the confusion, here is the right version.",
        "I apologize for the mistake.",
        "You cannot divide by zero.",
        "While I can't draw it, I can describe it.",
        "I cannot help but smile at this.",
        "As a customer, I cannot access my account.",
        "The server cannot provide the page.",
        "It is not possible to divide by zero.",
        "I'm not sure what you mean.",
        "Sure, I can help with that.",
        "Ich kann das empfehlen, es ist nicht teuer.",
        "Es tut mir leid, hier ist die richtige Fassung.",
        "Je ne sais quoi est une expression.",
        "Lo siento por la confusión, aquí está.",
        "用户无法登录时，请检查密码。",
        "申し訳ありません、こちらが正しい版です。",
        "Извините за путаницу, вот верный вариант.",
    ),
    "self_identification": (
        "As an AI researcher, I study models.",
        "GPT-4 is a large language model trained by OpenAI.",
        "I am an engineer who builds chatbots.",
        "Claude Monet was a painter.",
        "He was trained by Google engineers.",
        "My name is Anna.",
        "The AI assistant was developed by a start-up.",
        "KI ist ein Teilgebiet der Informatik.",
        "La inteligencia artificial cambia el trabajo.",
        "人工智能是一门学科。",
        "Искусственный интеллект меняет мир.",
        "I am the language teacher.",
        "Je suis Claude, votre boulanger.",
        "Ich bin von Google zu einem anderen Anbieter gewechselt.",
        "Ich wurde gestern von Microsoft angerufen.",
        "Soy profesor y uso ChatGPT en clase.",
        "Je suis déçu par ChatGPT.",
        "ChatGPT a été entraîné par OpenAI.",
        "Sono un fan di ChatGPT.",
    ),
}


@pytest.mark.parametrize("flaw", RULES)
def test_languages(flaw):
    missed = [t for t, s in zip(FOUND[flaw], verdicts(flaw, [*FOUND[flaw]]), strict=True) if not s]
    alarms = [t for t, s in zip(NOT[flaw], verdicts(flaw, [*NOT[flaw]]), strict=True) if s]
    assert (missed, alarms) == ([], [])
